"""The API of MindSpore Lite: what its Model costs beside the engine, how many predictions a
ModelParallelRunner makes, and what three processes take that share weights by the tutorial's way.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from weightd.benchmarks.api_worker import lone_context
from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.onnxruntime import PrivateSession
from weightd.benchmarks.plan import MIB, Effort
from weightd.benchmarks.predict import compare
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.turns import in_turns
from weightd.benchmarks.weights import write_tensors
from weightd.benchmarks.workers import module_command
from weightd.demo.process import Child
from weightd.model import Model, ModelType
from weightd.tensor import Tensor

_ANSWER_S = 300.0
_WINDOW_S = 2.0
_PROCESSES = 3
_EACH_MIB = 60
_LEAST_MIB = 200  # of weights: less says more of Python than of weights


def measure(subject: Subject, effort: Effort) -> Iterator[Comparison]:
    """Three rows; that of memory where there are weights to speak of."""
    yield _prediction(subject, effort)
    yield _throughput(subject, effort.api)
    if subject.nbytes >= _LEAST_MIB * MIB:
        yield _memory(subject, effort.memory)


def _prediction(subject: Subject, effort: Effort) -> Comparison:
    inputs = subject.smallest
    bare = PrivateSession(subject.file)
    with Model() as model:
        model.build_from_file(str(subject.file), ModelType.MINDIR, lone_context())
        tensors = [Tensor(array) for array in inputs.values()]
        ours, floor = compare(lambda: model.predict(tensors), lambda: bare.predict(inputs), effort)
    return Comparison(
        "api",
        f"Model.predict, {subject.title}",
        "s",
        ours,
        floor,
        "private session",
        Bar.at_most(subject.model.bars.api),
        subject.name,
    )


def _throughput(subject: Subject, rounds: int) -> Comparison:
    count = os.cpu_count() or 1
    with ExitStack() as stack:
        runner = stack.enter_context(_process(subject))
        _ask(runner, do="build", workers=count)
        private = [stack.enter_context(_process(subject)) for _ in range(count)]
        for process in private:
            _ask(process, do="build", is_bare=True)
        ours, floor = in_turns(
            lambda: _rate([runner], threads=count),
            lambda: _rate(private, threads=1),
            rounds=rounds,
            warmup=1,
        )
    return Comparison(
        "api",
        f"ModelParallelRunner of {count}, {subject.title}",
        "/s",
        ours,
        floor,
        f"{count} private processes",
        Bar.at_least(subject.model.bars.runner),
        subject.name,
        count,
    )


def _rate(processes: list[Child], threads: int) -> float:
    """Predictions a second, of all together."""
    for process in processes:
        process.send(do="predict", for_s=_WINDOW_S, threads=threads)
    told = [process.receive(timeout_s=_ANSWER_S) for process in processes]
    return float(sum(one["count"] / one["took_s"] for one in told))


def _memory(subject: Subject, rounds: int) -> Comparison:
    ours, floor = in_turns(
        lambda: _pss_mib(subject, is_shared=True),
        lambda: _pss_mib(subject, is_shared=False),
        rounds=rounds,
    )
    limit = subject.nbytes / MIB + _PROCESSES * _EACH_MIB
    return Comparison(
        "api",
        f"memory of {_PROCESSES} processes that share, {subject.title}",
        "MiB",
        ours,
        floor,
        "private models",
        Bar.at_most(limit, "ours"),
        subject.name,
        _PROCESSES,
    )


def _pss_mib(subject: Subject, *, is_shared: bool) -> float:
    """The sum over the processes, each of which has predicted. The first one is the master."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(subject)) for _ in range(_PROCESSES)]
        master, *others = processes
        pids = ", ".join(_ask(process, do="pid")["pid"] for process in others)
        shared = {"cpu_context": {"shareable_weight_pid_list": pids}} if is_shared else None
        handle = _ask(master, do="build", config=shared)["handle"]
        given = {"cpu_context": {"shareable_weight_mem_handle": handle}} if is_shared else None
        for process in others:
            _ask(process, do="build", config=given)
        return float(sum(_ask(process, do="measure")["Pss"] for process in processes) / MIB)


def _ask(process: Child, **message: object) -> dict[str, Any]:
    process.send(**message)
    return process.receive(timeout_s=_ANSWER_S)


@contextmanager
def _process(subject: Subject) -> Iterator[Child]:
    folder = subject.place.folder
    inputs = folder / "inputs.safetensors"
    write_tensors(subject.smallest, inputs)
    number = len(list(folder.glob("api-*.log")))
    command = module_command("api_worker", subject.file, inputs, folder / "api")
    child = Child(f"api-{number}", command, folder)
    try:
        yield child
    finally:
        child.close()
