"""The second look at tensors: which versions are compared with their digests, when, and what
follows when bytes are wrong.

In the background, round after round over everything held, slowly; and on request, at full speed.
Memory that is sealed cannot be written, but it can fail. Whatever is found is said, and the version
is marked: nothing new is built on it, and nobody who uses it is stopped. That is the operator's to
decide.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from weightd.daemon.catalog import Catalog
from weightd.daemon.check import SCRUBBER, Check, Subject, described
from weightd.daemon.damage import held, mark
from weightd.daemon.loop import Loop, Timer
from weightd.daemon.model import Action, Version
from weightd.daemon.settings import Settings
from weightd.daemon.vault import Vault
from weightd.errors import BusyError, CancelledError, VerifyError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.scrub import Flaw
from weightd.ipc.status import VersionCheck

log = logging.getLogger("weightd.scrub")

_MB = 10**6
_REST_S = 1.0  # of a round, when a version of it was freed
_PROGRESS_EVERY_S = 0.2
_FIRST_BACK_OFF_S = 1.0
_LAST_BACK_OFF_S = 300.0

Answer = Callable[[protocol.Verified | WeightdError], object]
OnProgress = Callable[[protocol.Progress], object]


class Host(Protocol):
    """What this asks of the server."""

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None:
        """Tell what happened."""

    def perform(self, actions: list[Action]) -> None:
        """Carry out what was decided, and write down what has changed."""


class _Request(msgspec.Struct, eq=False):
    """The verify that runs."""

    check: Check
    on_progress: OnProgress
    answer: Answer
    heartbeat: Timer | None = None


class Scrubbing:
    """Owns the scrubbers. start() begins the rounds; verify() may be asked without."""

    def __init__(
        self, loop: Loop, catalog: Catalog, vault: Vault, settings: Settings, host: Host
    ) -> None:
        self._loop = loop
        self._catalog = catalog
        self._vault = vault
        self._settings = settings
        self._host = host
        self._round: Check | None = None
        self._request: _Request | None = None
        self._timer: Timer | None = None
        self._back_off_s = _FIRST_BACK_OFF_S
        self._flaws: dict[int, set[tuple[int, int, str]]] = {}  # by version: those that were told
        self._read_nbytes = 0  # by checks that are over
        self._is_stopped = False

    @property
    def is_idle(self) -> bool:
        return not self._checks()

    @property
    def damaged_versions(self) -> int:
        """How many of the versions held now are marked."""
        return sum(bool(version.damage) for _, version in held(self._catalog))

    @property
    def scrubbed_nbytes(self) -> int:
        """What was read and compared since the daemon's start."""
        return self._read_nbytes + sum(check.read_nbytes for check in self._checks())

    def start(self) -> None:
        """Begin rounds in the background, unless they are off."""
        if self._settings.scrub_mb_per_s:
            self._wait(self._settings.scrub_pause_s, self._begin_round)

    def apply(self, settings: Settings) -> None:
        """Go by other settings from here on; a round that is under way ends as it began."""
        was_off = not self._settings.scrub_mb_per_s
        self._settings = settings
        if was_off:
            self.start()

    def freed(self, uid: int) -> None:
        """A version is no more: no scrubber may keep its memory."""
        self._flaws.pop(uid, None)
        for check in self._checks():
            check.freed(uid)

    def stop(self) -> None:
        """End everything; it is over once is_idle."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for check in self._checks():
            check.stop(CancelledError("the daemon is stopping"))

    def _checks(self) -> list[Check]:
        requested = self._request.check if self._request else None
        return [check for check in (self._round, requested) if check is not None]

    # --- in the background ---------------------------------------------------------------

    def _wait(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._timer = None if self._is_stopped else self._loop.call_later(delay_s, callback)

    def _begin_round(self) -> None:
        subjects = [self._subject(name, version) for name, version in held(self._catalog)]
        self._go_round(subjects)

    def _go_round(self, subjects: list[Subject]) -> None:
        uids = {version.uid for _, version in held(self._catalog)}
        subjects = [subject for subject in subjects if subject.uid in uids]
        if all(subject.is_done for subject in subjects):
            self._wait(self._settings.scrub_pause_s, self._begin_round)
            return
        try:
            self._round = self._check(
                subjects, self._settings.scrub_mb_per_s * _MB, self._round_ended
            )
        except VerifyError as error:
            self._try_again(subjects, error)

    def _round_ended(self, error: WeightdError | None) -> None:
        assert self._round is not None
        ended, self._round = self._round, None
        self._read_nbytes += ended.read_nbytes
        if error is not None:
            self._try_again(list(ended.subjects), error)
            return
        log.debug("a round over %d versions is done", len(ended.subjects))
        self._back_off_s = _FIRST_BACK_OFF_S
        self._wait(self._settings.scrub_pause_s, self._begin_round)

    def _try_again(self, subjects: list[Subject], error: WeightdError) -> None:
        """A scrubber that dies says nothing about the bytes: no alarm."""
        if self._is_stopped:
            return
        log.warning("%s; the round goes on in %g s", error, self._back_off_s)
        self._wait(self._back_off_s, lambda: self._go_round(subjects))
        self._back_off_s = min(2 * self._back_off_s, _LAST_BACK_OFF_S)

    # --- on request ----------------------------------------------------------------------

    def verify(self, name: str | None, on_progress: OnProgress, answer: Answer) -> None:
        """Check one model's versions now, or all that is held. One request at a time."""
        if self._request is not None:
            raise BusyError("another verify runs; wait for its end, then ask again")
        versions = held(self._catalog)
        if name is not None:
            versions = [(name, v) for v in self._catalog.model(name).versions.values()]
        subjects = [self._subject(model, version) for model, version in versions]
        if not subjects:
            answer(protocol.Verified(()))
            return
        self._request = _Request(
            self._check(subjects, None, self._request_ended), on_progress, answer
        )
        self._tell_progress()

    def _tell_progress(self) -> None:
        """Whoever waits hears that it goes on."""
        assert self._request is not None
        self._request.on_progress(self._request.check.progress)
        self._request.heartbeat = self._loop.call_later(_PROGRESS_EVERY_S, self._tell_progress)

    def _request_ended(self, error: WeightdError | None) -> None:
        assert self._request is not None
        ended, self._request = self._request, None
        if ended.heartbeat is not None:
            ended.heartbeat.cancel()
        self._read_nbytes += ended.check.read_nbytes
        ended.answer(error or protocol.Verified(tuple(map(_found, ended.check.subjects))))

    # --- both ----------------------------------------------------------------------------

    def _subject(self, name: str, version: Version) -> Subject:
        nbytes = self._vault.get(version.uid).nbytes
        return Subject(name, version.number, version.uid, nbytes)

    def _check(
        self,
        subjects: list[Subject],
        nbytes_per_s: float | None,
        when_done: Callable[[WeightdError | None], object],
    ) -> Check:
        return Check(
            self._loop,
            self._vault,
            subjects,
            nbytes_per_s=nbytes_per_s,
            rest_s=0.0 if nbytes_per_s is None else _REST_S,
            when_flaw=self._raise_alarm,
            when_done=when_done,
            scrubber=SCRUBBER,
        )

    def _raise_alarm(self, subject: Subject, flaw: Flaw) -> None:
        """Say it once for each place, and mark the version."""
        if subject.is_freed:
            return
        flaws = self._flaws.setdefault(subject.uid, set())
        place = (flaw.segment, flaw.offset, flaw.what)
        if place in flaws:
            return
        flaws.add(place)
        self._vault.distrust(subject.uid, flaw.segment)
        others = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
        pids = mark(self._catalog, subject.uid, subject.damage + others)
        self._host.perform([])  # a successor must know
        log.error(
            "%s version %d is damaged in memory: %s. Workers that map it: %s. They go on; publish "
            "its weights again, which shares nothing with it, or unload it",
            subject.model,
            subject.number,
            described(flaw),
            ", ".join(map(str, pids)) or "none",
        )
        if len(flaws) == 1:
            self._host.emit("corrupt", subject.model, subject.number, 0, described(flaw))


def _found(subject: Subject) -> VersionCheck:
    return VersionCheck(
        subject.model,
        subject.number,
        subject.pieces,
        subject.nbytes,
        subject.seconds,
        subject.verdict,
        subject.damage,
    )
