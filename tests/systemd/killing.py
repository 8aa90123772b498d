"""`killing.py KILLS SEED`, on the booted machine, as root: what `weightd stress` does to the daemon
of a keeper of its own is done to the service. Prints what was found as one JSON object."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from weightd.demo.interruption import Signals
from weightd.errors import NoDaemonError, WeightdError
from weightd.ipc.runtime import RuntimeFolder
from weightd.stress.findings import Findings
from weightd.stress.main import walk
from weightd.stress.outages import beyond_interpreter
from weightd.stress.plan import Plan
from weightd.stress.stage import STAGING, Stage

UNIT = "weightd.service"
DAEMON = b"weightd.daemon.main"
BARE = "bare"  # see bare.py
BARE_IS_UP = Path(f"/run/{BARE}/up")
CHILDREN_OF_INIT = Path("/proc/1/task/1/children")


class Systemd:
    """In the keeper's place: it has the segments, and every process descends from it."""

    pid = 1

    def has_ended(self) -> bool:
        return False

    def tail(self) -> str:
        return said(UNIT)[-4000:]


class ServiceStage(Stage):
    """The service, which was there before and stays."""

    def __init__(self, stack: ExitStack, signals: Signals) -> None:
        self._stack = stack
        self._signals = signals
        self._numbers = count(1)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.runtime = RuntimeFolder(Path("/run/weightd"))
        self.keeper = Systemd()  # type: ignore[assignment]  # as far as this run needs one
        self.wait_until_serving(0)

    def daemon_pid(self) -> int:
        """By its command line: the sockets that a daemon gets from systemd are of PID 1, and to ask
        itself would be measured, too."""
        for pid in map(int, CHILDREN_OF_INIT.read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):
                if DAEMON in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        raise NoDaemonError("systemd has no daemon at this moment")

    def interpreter_start_s(self) -> float:
        """As systemd starts it, in the same sandbox."""
        former = BARE_IS_UP.read_text()
        started_s = time.monotonic()
        os.kill(int(former), signal.SIGKILL)
        while BARE_IS_UP.read_text() == former:
            time.sleep(0.001)
        return time.monotonic() - started_s

    def stagings(self) -> int:
        return said(UNIT).encode().count(STAGING)

    def last_words(self) -> str:
        return self.keeper.tail()

    def tracebacks(self) -> int:
        return said(UNIT).count("Traceback")


def said(unit: str) -> str:
    """All that it logged until now; journald writes it down when it has the time."""
    subprocess.run(["journalctl", "--sync"], check=True)
    words = ["journalctl", "--unit", unit, "--output", "cat", "--no-pager"]
    return subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.decode(errors="replace")


def main(kills: int, seed: int) -> None:
    plan = Plan.of(kills=kills, seed=seed, only="publish,kill")
    findings = Findings(plan.seed)
    with Signals() as signals, ExitStack() as stack, signals.raised():
        stage = ServiceStage(stack, signals)
        try:
            walk(plan, findings, stage, lambda _: None)
        except WeightdError as error:
            findings.violated(f"the run ended: {type(error).__name__}: {error}")
        if tracebacks := stage.tracebacks():
            findings.violated(f"the daemon logged {tracebacks} tracebacks")
    beyond_interpreter(findings)
    print(json.dumps(findings.document()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
