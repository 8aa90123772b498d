"""The daemon is killed and stopped: how long nobody answers, and what its successor knows."""

import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

from weightd.stress.findings import Findings
from weightd.stress.publishing import Publishing
from weightd.stress.stage import Stage

AGAIN = "serving again"
BEYOND = "serving again, beyond interpreter start"
INTERPRETER = "interpreter start"
_WELL_S = 1.05  # a daemon that lived longer is started again at once
_MEASURED_EVERY = 5
_QUIET = 0.25  # of all kills
_MEMORY = re.compile(r"memfd:(weightd:\S+)")


class Outages:
    """publishing: what is checked after each; None where nothing is published."""

    def __init__(self, stage: Stage, findings: Findings, publishing: Publishing | None) -> None:
        self._stage = stage
        self._findings = findings
        self._publishing = publishing
        self._pid = stage.wait_until_serving(0)
        self._since_s = time.monotonic()
        self.kills = 0

    def kill(self, random: Random) -> None:
        """SIGKILL at a random moment, whatever goes on. The successor must have the same memory,
        the same versions, and must have read nothing again."""
        self.check_unharmed("between two steps")
        time.sleep(max(0.0, self._since_s + _WELL_S - time.monotonic()) + random.uniform(0, 0.3))
        with ExitStack() as quiet:
            if self._publishing is not None and random.random() < _QUIET:
                quiet.enter_context(self._publishing.paused())
                self._findings.did("kill daemon while nothing is published")
                self._kill(is_quiet=True)
            else:
                self._kill(is_quiet=False)

    def _kill(self, *, is_quiet: bool) -> None:
        memory = self._memory()
        before = self.asked_and_read()
        started_s = time.monotonic()
        os.kill(self._pid, signal.SIGKILL)
        self._pid = self._stage.wait_until_serving(self._pid)
        took_s = time.monotonic() - started_s
        self._since_s = time.monotonic()
        self.kills += 1
        self._findings.did("kill daemon")
        self._findings.took(AGAIN, took_s)
        if self.kills % _MEASURED_EVERY == 1:
            self._findings.took(INTERPRETER, self._stage.interpreter_start_s())
        self._check(memory, before, is_quiet=is_quiet)

    def kill_at_once(self, random: Random) -> None:
        """SIGKILL while it starts. The keeper waits a moment longer each time, so no time is
        measured."""
        self.check_unharmed("between two steps")
        for _ in range(2):
            os.kill(self._pid, signal.SIGKILL)
            time.sleep(random.uniform(0.0, 0.3))
            self._pid = self._stage.wait_until_serving(self._pid)
            self._findings.did("kill daemon that has just begun")
        self._since_s = time.monotonic()
        self._check({}, self.asked_and_read(), is_quiet=False)

    def stop(self, random: Random) -> None:
        """SIGSTOP for a while: nobody is answered, nothing is lost."""
        self.check_unharmed("between two steps")
        os.kill(self._pid, signal.SIGSTOP)
        try:
            time.sleep(random.uniform(0.01, 0.4))
        finally:
            os.kill(self._pid, signal.SIGCONT)
        self._findings.did("stop daemon")

    def check_unharmed(self, since: str) -> None:
        """The daemon did not end by itself meanwhile."""
        pid = self._stage.wait_until_serving(0)
        if pid != self._pid:
            self._findings.violated(f"the daemon ended by itself: {since}")
            self._findings.note(self._stage.last_words())
            self._pid, self._since_s = pid, time.monotonic()

    def asked_and_read(self) -> tuple[int, int]:
        """How many publishes were asked for, and how many stagings there were a little later: to
        count these takes a while, and what is asked for then is staged after."""
        asked = self._requests()
        return asked, self._stage.stagings()

    def _requests(self) -> int:
        return self._publishing.requests if self._publishing else 0

    def _check(
        self, memory: dict[str, set[int]], before: tuple[int, int], *, is_quiet: bool
    ) -> None:
        """before: what was asked for and read. is_quiet: nothing was asked for meanwhile, and
        nothing is under way."""
        with ExitStack() as stack:
            if self._publishing is not None:
                if not is_quiet:
                    stack.enter_context(self._publishing.paused())
                self._publishing.check()
            read = self._stage.stagings() - before[1]
            asked = self._requests() - before[0]
        self._findings.did("version kept over a kill", self._kept(memory))
        if are_too_many(read, asked, is_quiet=is_quiet):
            self._findings.violated(
                f"weights read again: {read} stagings where {asked} were asked for"
            )

    def _memory(self) -> dict[str, set[int]]:
        """The keeper's segments: which memory each version lies in."""
        found: dict[str, set[int]] = {}
        folder = Path(f"/proc/{self._stage.keeper.pid}/fd")
        for path in folder.iterdir():
            try:
                name = _MEMORY.search(os.readlink(path))
                if name:
                    found.setdefault(name[1], set()).add(path.stat().st_ino)
            except FileNotFoundError:
                continue
        return found

    def _kept(self, before: dict[str, set[int]]) -> int:
        """How many versions lie where they lay; one that lies elsewhere is a violation."""
        now = self._memory()
        for name in before.keys() & now.keys():
            if before[name] != now[name]:
                self._findings.violated(f"weights read again: {name} lies in other memory now")
        return len(before.keys() & now.keys())


def are_too_many(read: int, asked: int, *, is_quiet: bool) -> bool:
    """Whether there were more stagings than publishes explain. Unless it was quiet one may have
    been asked for before, and begun after we looked; and what the daemon died over is begun again.
    """
    return read > asked + (0 if is_quiet else 2)


def beyond_interpreter(findings: Findings) -> None:
    """Write down how long it was beyond what any Python needs, by the median of that."""
    bare = sorted(findings.times_s.get(INTERPRETER, []))
    if bare:
        median_s = bare[len(bare) // 2]
        for took_s in findings.times_s[AGAIN]:
            findings.took(BEYOND, max(0.0, took_s - median_s))
