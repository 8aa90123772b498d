"""The demo from the first line to the last, and what to say when it fails."""

import time
from contextlib import ExitStack

from weightd.demo.interruption import Signals
from weightd.demo.lenet import live_update
from weightd.demo.memory import compare_memory
from weightd.demo.process import DemoError
from weightd.demo.report import MemoryReport, Report
from weightd.demo.screen import Screen
from weightd.demo.stage import Stage
from weightd.demo.tables import lenet_table, memory_table
from weightd.errors import WeightdError

FAILED = 1


def tell(signals: Signals, *, as_json: bool, with_memory: bool) -> int:
    """Perform, clean up, and say what was found; returns the exit status. Raises Interrupted."""
    screen = Screen(as_json=as_json)
    try:
        report = _perform(signals, screen, with_memory=with_memory)
        if as_json:
            screen.document(report.document())
    except BrokenPipeError:
        return FAILED  # whoever read it has gone
    except (DemoError, WeightdError, OSError) as error:
        screen.complain(f"the demo failed: {error}")
        return FAILED
    for problem in report.problems():
        screen.complain(f"not as promised: {problem}")
    return FAILED if report.problems() else 0


def _perform(signals: Signals, screen: Screen, *, with_memory: bool) -> Report:
    started_s = time.monotonic()
    with ExitStack() as stack, signals.raised():
        stack.callback(screen.close)
        stage = Stage(stack, signals, screen)
        lenet = live_update(stage)
        screen.print(lenet_table(lenet))
        memory = compare_memory(stage) if with_memory else None
    if memory and not memory.skipped:
        screen.print(memory_table(memory))
        _explain(memory, screen)
    report = Report(lenet, memory, time.monotonic() - started_s)
    screen.say(f"{report.seconds:.0f} s; the demo's processes, sockets and files are gone.")
    return report


def _explain(memory: MemoryReport, screen: Screen) -> None:
    screen.say(
        f"The daemon holds {memory.held_nbytes / 2**20:.0f} MiB, once; these pages are counted in "
        "the workers' PSS already."
    )
