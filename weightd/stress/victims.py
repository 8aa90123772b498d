"""Stagers, which live for a moment: found among the keeper's descendants, killed and stopped."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from weightd.stress.findings import Findings
from weightd.stress.leaks import descendants
from weightd.stress.stage import Stage

_LOOK_S = 1.0
_PROGRAM = b"weightd.daemon.stager"


class Victims:
    """A publish whose stager was killed is refused by name; one whose stager stood still waits."""

    def __init__(self, stage: Stage, findings: Findings) -> None:
        self._stage = stage
        self._findings = findings

    def kill_stager(self, random: Random) -> None:
        with self._found() as pidfd:
            if pidfd is not None:
                time.sleep(random.uniform(0, 0.1))
                if _signal(pidfd, signal.SIGKILL):
                    self._findings.did("kill stager")

    def stop_stager(self, random: Random) -> None:
        with self._found() as pidfd:
            if pidfd is not None and _signal(pidfd, signal.SIGSTOP):
                time.sleep(random.uniform(0, 0.3))
                _signal(pidfd, signal.SIGCONT)
                self._findings.did("stop stager")

    @contextmanager
    def _found(self) -> Iterator[int | None]:
        """A stager that runs now, or begins soon, by a descriptor: its number may come again."""
        until_s = time.monotonic() + _LOOK_S
        pidfd = None
        while pidfd is None and time.monotonic() < until_s:
            pidfd = next(filter(None, map(_stager, descendants(self._stage.keeper.pid))), None)
            time.sleep(0.002)
        try:
            yield pidfd
        finally:
            if pidfd is not None:
                os.close(pidfd)


def _stager(pid: int) -> int | None:
    """A descriptor of the process, if it is a stager."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if _PROGRAM in _command_line(pid):
        return pidfd
    os.close(pidfd)
    return None


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _signal(pidfd: int, number: signal.Signals) -> bool:
    """Whether it was still there."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True
