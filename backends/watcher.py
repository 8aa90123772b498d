"""The thread that follows new versions, and comes back to a daemon that was away.

    daemon ──notice──► watcher ──pull──► map ──► switch ──switched──► daemon
      ╎
      ╎ killed, stopped or restarted: predictions go on with what is mapped
      ▼
    daemon ◄──"I hold 3 and 2"── watcher, which tries until one lets it in again

The watcher is the only thread that speaks on the lease. What others have for it they say by the
bell.
"""

import contextlib
import logging
import os
import select
import threading
from typing import Protocol, assert_never

from weightd.backends.mappings import Mappings
from weightd.backends.version import MappedVersion
from weightd.errors import (
    BadHandleError,
    ClosedError,
    NoAccessError,
    NotAllowedError,
    RefusedError,
    TensorsNeededError,
    WeightdError,
)
from weightd.ipc import protocol
from weightd.ipc.bell import Bell
from weightd.ipc.lease import Lease, Notices

log = logging.getLogger("weightd.worker")

_FIRST_RETRY_S = 0.02
_LAST_RETRY_S = 0.5  # a daemon that is back has its workers within a second
_NOT_ALLOWED_RETRY_S = 3.0  # of one that has to be let in first


class Follower(Protocol):
    """What is switched: the attachment."""

    @property
    def is_closing(self) -> bool: ...

    lag: str

    @property
    def running(self) -> MappedVersion | None:
        """The version that predictions run on; None once it was closed."""

    @property
    def spoken_of(self) -> tuple[str, str] | None:
        """The engine that predictions run on, and why it is not the version's; None for no
        engine."""

    def switch(self, mapped: MappedVersion) -> float:
        """Have predictions run on this version; returns for how many microseconds they waited."""

    def stays(self, why: str, *, for_good: int = 0) -> None:
        """There was no switch; for_good: the version that will never come."""

    def connected(self, is_so: bool, why: str = "") -> None:
        """Whether there is a daemon; why: what is to be told of that."""


class Watcher:
    """Owns the lease and the thread. comes_back: whether it looks for a daemon when there is none
    any more."""

    def __init__(
        self,
        lease: Lease,
        incarnation: str,
        follower: Follower,
        mappings: Mappings,
        bell: Bell,
        *,
        comes_back: bool,
    ) -> None:
        self._lease = lease
        self._incarnation = incarnation
        self._follower = follower
        self._mappings = mappings
        self._bell = bell
        self.comes_back = comes_back
        self._pid = os.getpid()
        self._tried = 0
        self._farewell = ""
        self._has_warned = False  # that there is no daemon
        self._told = ("", "")  # engine and note, as the daemon knows them
        self._turning = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name=f"weightd:{lease.model}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def knows(self, note: str) -> bool:
        """Whether the daemon was told this of the engine."""
        return note == self._told[1]

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end, unless it is this one."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def halt(self) -> None:
        """Return when no switch is under way, nor will be: the process ends."""
        self._turning.acquire()

    # --- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._attend() and self._return():
                pass
        finally:
            self._follower.connected(False)
            self._lease.close()
            del self._follower  # which refers to us: the bell would wait for the collector

    def _attend(self) -> bool:
        """Serve the lease until it is not needed any more: False; or is lost: True."""
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        poller.register(self._lease, select.POLLIN)
        try:
            with self._turning:
                self._turn()  # what came with an answer lies in the lease, and wakes nobody
            while not (self._follower.is_closing and self._mappings.is_empty):
                poller.poll()
                with self._turning:
                    self._turn()
        except WeightdError as error:
            self._lost(error)
            return not self._follower.is_closing
        return False

    def _turn(self) -> None:
        self._bell.hush()
        self._tell_engine()
        for number in self._mappings.released():
            self._lease.released(number)
        # When closing, too: what lies unread would keep poll() awake.
        while (notice := self._lease.notice()) is not None:
            if not self._follower.is_closing:
                self._heed(notice)

    def _heed(self, notice: Notices) -> None:
        match notice:
            case protocol.Notice():
                self._follow()
            case protocol.Unhelped(reason):
                why = f"{self._follower.lag} (the daemon: {reason})"
                self._follower.stays(why, for_good=self._tried)
            case protocol.Revocation(reason):
                log.warning("process %d gets no new versions: %s", self._pid, reason)
                self._follower.connected(True, reason)
            case protocol.Goodbye(reason):
                log.info("process %d gets no new versions: %s", self._pid, reason)
                self._follower.connected(True, reason)
                self._farewell = reason
            case _:
                assert_never(notice)

    def _follow(self) -> None:
        """Switch to the live version, or stay on the old one and say why."""
        try:
            grant = self._lease.pull()
        except RefusedError as error:
            self._follower.stays(str(error))
            return
        try:
            mapped = self._mappings.map(grant)
        except RefusedError as error:  # such as one of a newer weightd
            self._refuse(grant.version, str(error))
            if not self._mappings.has(grant.version):
                self._lease.released(grant.version)
            return
        self._switch(mapped)

    def _switch(self, mapped: MappedVersion) -> None:
        try:
            pause_us = self._follower.switch(mapped)
        except ClosedError:
            return
        except TensorsNeededError as error:
            self._refuse(mapped.number, str(error), comes_again=True)
            self._lease.unfit(mapped.number, str(error.__cause__))
            return
        except WeightdError as error:
            self._refuse(mapped.number, str(error))
            return
        self._lease.switched(mapped.number, pause_us)
        self._tell_engine()

    def _refuse(self, number: int, why: str, *, comes_again: bool = False) -> None:
        """Stay on the old version. comes_again: in a form that fits."""
        self._tried = number
        self._follower.stays(why, for_good=0 if comes_again else number)
        self._lease.not_switched(number, why)

    def _tell_engine(self) -> None:
        """Let the daemon know when predictions run on another engine than the version's."""
        spoken_of, running = self._follower.spoken_of, self._follower.running
        if spoken_of is None or running is None or spoken_of == self._told:
            return
        engine, note = spoken_of
        if self._told[1] or note:
            self._lease.runs_on(engine, note)
        if engine == "none":
            self._lease.unfit(running.number, note)
        self._told = spoken_of

    # --- a daemon that is away -----------------------------------------------------------

    def _lost(self, error: WeightdError) -> None:
        with contextlib.suppress(WeightdError):  # why it went may lie unread
            while (notice := self._lease.notice()) is not None:
                if isinstance(notice, protocol.Goodbye) and not self._follower.is_closing:
                    self._heed(notice)
        self._lease.close()
        if self._follower.is_closing:
            return
        if not self._farewell:
            why = str(error)  # a log record that is kept would keep a traceback, and so memory
            log.warning("%s; predictions go on with the version that is mapped", why)
            self._has_warned = True
        self._follower.connected(False)

    def _return(self) -> bool:
        """Come back to the daemon, as soon as one lets this process in; False when there is no need
        to any more."""
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        delay_s, told = _FIRST_RETRY_S, ""
        while self.comes_back and not self._follower.is_closing:
            poller.poll(delay_s * 1000)
            delay_s = min(delay_s * 1.5, _LAST_RETRY_S)
            with self._turning:
                self._bell.hush()
                for _ in self._mappings.released():
                    pass
                try:
                    self._attach_again()
                except (RefusedError, NoAccessError) as error:
                    if isinstance(error, NotAllowedError | BadHandleError):
                        delay_s = _NOT_ALLOWED_RETRY_S
                    if str(error) != told:
                        told = str(error)
                        log.warning("the daemon does not let this process in: %s", told)
                        self._has_warned = True
                        self._follower.connected(False, told)
                except (WeightdError, OSError):  # there is none yet, or no descriptor for it
                    self._follower.connected(False)
                else:
                    return True
        return False

    def _attach_again(self) -> None:
        running = self._follower.running
        if running is None:
            raise ClosedError("this attachment was closed")
        lease = Lease(self._lease.folder, timeout_s=self._lease.timeout_s)
        try:
            held = self._mappings.held(running, self._incarnation)
            answer = lease.attach_again(self._lease, self._incarnation, held)
            if isinstance(answer, int):
                self._begin(lease, self._incarnation)
                if answer != running.number:
                    self._follow()
                return
            self._mappings.forget()
            mapped = self._mappings.map(answer)
            mapped.manifest.check_fits(running.manifest)
            self._begin(lease, answer.incarnation)
            self._switch(mapped)
        except BaseException:
            lease.close()
            raise

    def _begin(self, lease: Lease, incarnation: str) -> None:
        level = logging.WARNING if self._has_warned else logging.INFO
        log.log(level, "process %d is at the daemon again", self._pid)
        self._has_warned = False
        self._lease, self._incarnation = lease, incarnation
        self._told, self._farewell = ("", ""), ""
        self._follower.connected(True)
