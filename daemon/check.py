"""One check of some versions' bytes, seen from the daemon: a scrubber child, its reports, its end.

start ──► the child reads ──► all is done ──► when_done(None)
  ▲             │
  └─ the rest ──┴─ a version of it was freed: the child is killed, and its memory goes
"""

import sys
from collections.abc import Callable, Sequence

import msgspec

from weightd.daemon.child import Child
from weightd.daemon.loop import Loop, Timer
from weightd.daemon.vault import Vault
from weightd.errors import BadRequestError, StagingError, VerifyError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.scrub import MAX_TARGETS, Flaw, ScrubJob, ScrubReport, Target

SCRUBBER = (sys.executable, "-P", "-m", "weightd.daemon.scrubber")


class Subject(msgspec.Struct, eq=False):
    """A version that is checked, and how far. size_nbytes: of its segments; pieces, nbytes,
    seconds: what was compared, by all scrubbers together."""

    model: str
    number: int
    uid: int
    size_nbytes: int
    pieces: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    damage: str = ""  # the first fault
    is_done: bool = False
    is_freed: bool = False

    @property
    def is_over(self) -> bool:
        return self.is_done or self.is_freed

    @property
    def verdict(self) -> str:
        if self.damage:
            return "damaged"
        return "freed" if self.is_freed and not self.is_done else "sound"


class Check:
    """Calls `when_flaw` with each fault, and `when_done` once, with None or why it could not go on.
    Each of the subjects remembers how far it is, so that another Check can take the rest."""

    def __init__(  # noqa: PLR0913 - what to do, how fast, and whom to tell
        self,
        loop: Loop,
        vault: Vault,
        subjects: Sequence[Subject],
        *,
        nbytes_per_s: float | None,
        rest_s: float,
        when_flaw: Callable[[Subject, Flaw], object],
        when_done: Callable[[WeightdError | None], object],
        scrubber: Sequence[str] = SCRUBBER,
    ) -> None:
        self._loop = loop
        self._vault = vault
        self._nbytes_per_s = nbytes_per_s
        self._rest_s = rest_s  # after a version was freed: others may go with it
        self._when_flaw = when_flaw
        self._when_done = when_done
        self._scrubber = scrubber
        self._targets: list[Subject] = []  # of the child that runs
        self._seconds_before: list[float] = []
        self._read_by_child = 0
        self._stopped_with: WeightdError | None = None
        self._is_cut_short = False
        self._child: Child | None = None
        self._timer: Timer | None = None
        self.subjects = tuple(subjects)
        self.read_nbytes = 0
        self._start()

    @property
    def pid(self) -> int | None:
        """Of the scrubber, while there is one."""
        return self._child.pid if self._child else None

    @property
    def progress(self) -> protocol.Progress:
        """In bytes of segments, what several versions share counted for each."""
        now = next((s for s in self.subjects if not s.is_over), self.subjects[-1])
        done = sum(s.size_nbytes if s.is_over else s.nbytes for s in self.subjects)
        total = sum(s.size_nbytes for s in self.subjects)
        return protocol.Progress(f"{now.model} version {now.number}", min(done, total), total)

    def freed(self, uid: int) -> None:
        """A version is no more. Its memory goes at once, although a scrubber had it open."""
        for subject in self.subjects:
            if subject.uid == uid:
                subject.is_freed = True
                self._is_cut_short = True
                if self._child is not None:
                    self._child.kill()

    def stop(self, error: WeightdError) -> None:
        """End it; `error` goes to when_done."""
        self._stopped_with = error
        if self._child is not None:
            self._child.kill()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._when_done(error)

    def _start(self) -> None:
        """Start a scrubber on what is left, or say that nothing is. VerifyError when none can be
        started."""
        self._timer = None
        self._is_cut_short = False
        self._targets = [subject for subject in self._batch() if not subject.is_freed]
        if not self._targets:
            self._when_done(None)
            return
        self._seconds_before = [subject.seconds for subject in self._targets]
        self._read_by_child = 0
        job = ScrubJob(tuple(map(self._target, self._targets)), self._nbytes_per_s)
        try:
            self._child = Child(
                self._loop,
                self._scrubber,
                pass_fds=sorted({fd for target in job.targets for fd in target.fds}),
                message=lambda: protocol.encode(job),
                when_report=self._got,
                when_ended=self._ended,
            )
        except (StagingError, OSError) as error:  # OSError: the daemon has no descriptor left
            raise VerifyError(f"the bytes in memory cannot be checked now: {error}") from error

    def _batch(self) -> Sequence[Subject]:
        """The next versions, with those of the same job that are done: they may share pieces."""
        for begin in range(0, len(self.subjects), MAX_TARGETS):
            batch = self.subjects[begin : begin + MAX_TARGETS]
            if not all(subject.is_over for subject in batch):
                return batch
        return ()

    def _target(self, subject: Subject) -> Target:
        fds = tuple(segment.fileno() for segment in self._vault.get(subject.uid).segments)
        return Target(subject.model, subject.number, fds, subject.pieces, not subject.damage)

    def _got(self, raw: bytes) -> None:
        try:
            report = protocol.decode(raw, ScrubReport)
            subject = self._targets[report.target]
        except (BadRequestError, IndexError) as error:
            self.stop(VerifyError(f"the scrubber reported nonsense: {error}"))
            return
        if isinstance(report, Flaw):
            subject.damage = subject.damage or described(report)
            self._when_flaw(subject, report)
            return
        subject.pieces, subject.nbytes = report.pieces, report.nbytes
        subject.seconds = self._seconds_before[report.target] + report.seconds
        subject.is_done = subject.is_done or report.is_done
        self.read_nbytes += max(0, report.read_nbytes - self._read_by_child)
        self._read_by_child = report.read_nbytes

    def _ended(self, status: int) -> None:
        assert self._child is not None
        said, self._child = self._child.last_words, None
        if self._stopped_with is not None:
            self._when_done(self._stopped_with)
        elif all(subject.is_over for subject in self._targets):
            self._go_on()
        elif self._is_cut_short:
            self._timer = self._loop.call_later(self._rest_s, self._go_on)
        else:
            self._when_done(VerifyError(_cause_of_death(status, said)))

    def _go_on(self) -> None:
        try:
            self._start()
        except VerifyError as error:
            self._when_done(error)


def _cause_of_death(status: int, said: str) -> str:
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"the scrubber {how} before all was compared" + (f"; it said: {said}" if said else "")


def described(flaw: Flaw) -> str:
    """The fault in words: what, where, and how one knows."""
    where = f"{flaw.nbytes} bytes at {flaw.offset} of segment {flaw.segment}"
    return (
        f"{flaw.what}: {flaw.fault}" if not flaw.nbytes else f"{flaw.what}, {where}: {flaw.fault}"
    )
