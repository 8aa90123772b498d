"""A worker's use of one model: the lease, the mapped version, the engine's session, and the thread
that follows new versions.

    daemon ──notice──► watcher thread ──pull──► map ──► session.swap() ──switched──► daemon
                                                            ▲ predictions go on, each on one version

The watcher is the only thread that speaks on the lease. What other threads have for it (an old
version's last array went; close() was called) they put in a queue and ring its bell.
"""

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Self, assert_never

from weightd.backends.base import Session
from weightd.backends.ending import end_with_the_process
from weightd.backends.helping import helped
from weightd.backends.ports import TensorInfo, checked_inputs, infos_of
from weightd.backends.sessions import session_on
from weightd.backends.threads import ONE, Threads
from weightd.backends.version import MappedVersion, Weights
from weightd.errors import (
    ClosedError,
    DaemonTimeoutError,
    ForkedError,
    RefusedError,
    TensorsNeededError,
    UsageError,
    WeightdError,
)
from weightd.ipc import protocol
from weightd.ipc.bell import Bell
from weightd.ipc.lease import Grant, Lease, Notices
from weightd.weights.arrays import Array

log = logging.getLogger("weightd.worker")

_CLOSE_S = 5.0
_HELP_S = 900.0  # for staging a version that this process can use; the daemon has its own limit


class Attachment:
    """One model, attached. Made by weightd.attach(); use it as `with`, or close() it.

    Safe from several threads. A forked child cannot use it (ForkedError) and attaches itself. When
    the daemon ends it goes on predicting on what it has; is_connected then says False.
    """

    def __init__(
        self,
        lease: Lease,
        grant: Grant,
        *,
        threads: tuple[Threads, ...],
        inherited: Session | None = None,
    ) -> None:
        """Made by attach() and attach_by_handle(). threads: of each session; one for each run at
        a time."""
        self._pid = os.getpid()
        self._lease = lease
        self._model = grant.model
        self._threads = threads
        self._bell = Bell()
        self._unmapped: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._mappings: Counter[int] = Counter()  # of each version; a rollback can bring a second
        self._is_closing = False
        self._changed = threading.Condition()
        self.is_connected = True
        self.lag = ""
        self._tried = self._given_up = 0  # version numbers, of switches that failed
        self._mapped: MappedVersion | None
        self._session: Session | None
        self._mapped, self._session = self._opened_or_helped(self._map(grant), inherited)
        if self._mapped.number != grant.version:
            lease.switched(self._mapped.number, 0.0)
        self._told = ("", "")  # engine and note, as the daemon knows them
        self._watcher = threading.Thread(
            target=self._watch, name=f"weightd:{grant.model}", daemon=True
        )
        self._turning = threading.Lock()
        self._watcher.start()
        end_with_the_process(self)

    # --- what a worker uses --------------------------------------------------------------

    @property
    def model(self) -> str:
        return self._version_now().manifest.model

    @property
    def version(self) -> int:
        """The number of the version that the next prediction runs on."""
        return self._version_now().number

    @property
    def engine(self) -> str:
        """What runs predictions now: 'prepacked', 'plain', 'reference', or '' for weights without
        a graph."""
        mapped, session = self._version_now(), self._session
        return session.engine if session is not None else mapped.manifest.stamp["engine"]

    @property
    def engine_note(self) -> str:
        """Why it is not the engine that one would expect, or ''."""
        mapped, session = self._version_now(), self._session
        note = session.note if session is not None else ""
        return note or mapped.manifest.stamp.get("note", "")

    @property
    def stamp(self) -> Mapping[str, str]:
        """What the current version was compiled for, and from: see DESIGN.md."""
        return self._version_now().manifest.stamp

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the weights, as the model's file has them; not all of them can be read
        here: see weights."""
        return frozenset(p.name for p in self._version_now().manifest.parameters)

    @property
    def weights(self) -> Weights:
        """The current version's tensors; see Weights for how long they live."""
        return Weights(self._version_now())

    @property
    def inputs(self) -> dict[str, TensorInfo]:
        """What predict takes, by name."""
        return infos_of(self._version_now().manifest.inputs)

    @property
    def outputs(self) -> dict[str, TensorInfo]:
        """What predict gives, by name."""
        return infos_of(self._version_now().manifest.outputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once, in this process, on one version of the weights.

        inputs: by name, of exactly the dtypes and shapes of `.inputs`; not kept. Returns the
        outputs by name, in new memory of the caller's. Raises BadInputError, PredictError,
        UnknownTensorError (weights without a graph), ClosedError, ForkedError.
        """
        # No name here is a version: in a child that is forked now this frame stays for ever.
        ports = self._version_now().manifest.inputs
        session = self._session
        if session is None:
            self._version_now().graph()  # says that there is none
            raise ClosedError("this attachment was closed")
        try:
            return session.run(checked_inputs(inputs, ports))
        finally:
            try:
                if session.note != self._told[1]:
                    self._bell.ring()
            except ClosedError:  # meanwhile; what was answered counts
                pass

    def wait_for_version(self, number: int, *, timeout_s: float) -> None:
        """Return once predictions run on this version; DaemonTimeoutError says why they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.version == number, timeout_s):
                why = f": {self.lag}" if self.lag else ""
                raise DaemonTimeoutError(
                    f"{self.model!r} still runs version {self.version}, not {number}, after "
                    f"{timeout_s} s{why}"
                )

    def wait_until_at_least(self, number: int, *, timeout_s: float) -> None:
        """Return once predictions run on this version or a later one; DaemonTimeoutError as soon as
        it is known that they will not, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(
                lambda: max(self.version, self._given_up) >= number or not self.is_connected,
                timeout_s,
            )
            if self.version < number:
                raise DaemonTimeoutError(
                    f"version {number} was published, and this process stays on {self.version}: "
                    f"{self.lag or 'it has not switched yet'}"
                )

    def attach_in_child(
        self, handle: int | None = None, *, timeout_s: float = 10.0
    ) -> "Attachment":
        """In a forked child: attach this process itself, with the engine that its parent had open.

        The child must be allowed itself. Nothing is loaded or packed again, which makes it the
        quickest way to many workers. With more than one thread, or on another engine than
        'prepacked', an engine is opened anew: an engine's threads do not survive a fork. The
        parent's attachment cannot be used in the child any more. Raises as attach() does, and
        UsageError in the process that made this attachment.
        """
        if self._pid == os.getpid():
            raise UsageError("attach_in_child() is for a forked child of this process")
        session, self._session, self._mapped = self._session, None, None
        lease = Lease(self._lease.folder, timeout_s=timeout_s)
        try:
            grant = lease.attach(self._model, handle)
            inherited = (
                session.inherited() if session is not None and self._threads == (ONE,) else None
            )
            return Attachment(lease, grant, threads=self._threads, inherited=inherited)
        except BaseException:
            lease.close()
            raise

    def close(self) -> None:
        """Detach. Arrays of `.weights` stay valid; their version is released when they go."""
        if self._pid != os.getpid():
            return
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            if self._session is not None:
                self._session.close()
            self._session = None
            self._mapped = None
        self._bell.ring()
        is_watcher = threading.current_thread() is self._watcher
        if not is_watcher and not self._unmapped.empty():  # no array is left: the daemon hears
            self._watcher.join(_CLOSE_S)

    def end(self) -> None:
        """Close, and return when no switch is under way, nor will be: the process ends."""
        self.close()
        if self._pid == os.getpid():
            self._turning.acquire()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._mapped is None:
            return "<Attachment closed>"
        connected = "" if self.is_connected else ", daemon gone"
        engine = self.engine or "no engine"
        return f"<Attachment {self.model} v{self.version} by {engine}{connected}>"

    # --- versions ------------------------------------------------------------------------

    def _version_now(self) -> MappedVersion:
        if self._pid != os.getpid():
            raise ForkedError(
                "this attachment belongs to the parent process; a forked child calls its "
                "attach_in_child(), or weightd.attach() (and must be allowed itself)"
            )
        mapped = self._mapped
        if mapped is None:
            raise ClosedError("this attachment was closed")
        return mapped

    def _map(self, grant: Grant) -> MappedVersion:
        unmapped, bell = self._unmapped, self._bell

        def when_unmapped(number: int) -> None:
            """In whatever thread dropped the last array, perhaps inside the garbage collector."""
            unmapped.put(number)
            bell.ring()

        mapped = MappedVersion.of_grant(grant, when_unmapped)
        self._mappings[mapped.number] += 1
        return mapped

    def _opened_or_helped(
        self, mapped: MappedVersion, current: Session | None
    ) -> tuple[MappedVersion, Session | None]:
        """The version and a session on it; or, where this process cannot use what was compiled,
        the version that the daemon makes for it."""
        deadline_s = time.monotonic() + _HELP_S
        while True:
            try:
                return mapped, session_on(mapped, current, self._threads)
            except TensorsNeededError as error:
                grant = helped(self._lease, mapped.number, error, deadline_s)
                mapped, current = self._map(grant), None

    # --- the watcher thread --------------------------------------------------------------

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        poller.register(self._lease, select.POLLIN)
        try:
            self._tell_engine()
            while not (self._is_closing and not self._mappings):
                poller.poll()
                with self._turning:
                    self._turn()
        except WeightdError as error:
            self._lost(error)
        finally:
            with self._changed:
                self.is_connected = False
                self._changed.notify_all()
            self._lease.close()

    def _turn(self) -> None:
        self._bell.hush()
        self._tell_engine()
        while not self._unmapped.empty():
            number = self._unmapped.get()
            self._mappings[number] -= 1
            if not self._mappings[number]:
                del self._mappings[number]
                self._lease.released(number)
        # When closing, too: what lies unread would keep poll() awake.
        while (notice := self._lease.notice()) is not None:
            if not self._is_closing:
                self._heed(notice)

    def _heed(self, notice: Notices) -> None:
        match notice:
            case protocol.Notice():
                self._follow()
            case protocol.Unhelped(reason):
                self._stays(f"{self.lag} (the daemon: {reason})", for_good=self._tried)
            case protocol.Revocation() | protocol.Goodbye():
                is_usual = isinstance(notice, protocol.Goodbye)  # an end, as every daemon has one
                level = logging.INFO if is_usual else logging.WARNING
                log.log(level, "process %d gets no new versions: %s", self._pid, notice.reason)
                self.lag = notice.reason
            case _:
                assert_never(notice)

    def _follow(self) -> None:
        """Switch to the live version, or stay on the old one and say why."""
        try:
            mapped = self._map(self._lease.pull())
        except RefusedError as error:
            self._stays(str(error))
            return
        try:
            pause_us = self._switch(mapped)
        except ClosedError:
            return
        except WeightdError as error:
            self._tried = mapped.number
            is_unfit = isinstance(error, TensorsNeededError)  # it comes again, in a form that fits
            self._stays(str(error), for_good=0 if is_unfit else mapped.number)
            self._lease.not_switched(mapped.number, self.lag)
            if is_unfit:
                self._lease.unfit(mapped.number, str(error.__cause__))
            return
        self._lease.switched(mapped.number, pause_us)
        self._tell_engine()

    def _switch(self, mapped: MappedVersion) -> float:
        session, pause_us = self._session, 0.0
        if self._is_closing:
            raise ClosedError("this attachment was closed")
        if session is not None and session.compiled_by == mapped.manifest.stamp["engine"]:
            pause_us = session.swap(mapped)
        else:  # runs that are on the old one keep it to their end
            session = session_on(mapped, None, self._threads)
        with self._changed:
            if not self._is_closing:
                self._mapped, self._session, self.lag = mapped, session, ""
                self._changed.notify_all()
                return pause_us
        if session is not None:
            session.close()
        raise ClosedError("this attachment was closed")

    def _stays(self, why: str, *, for_good: int = 0) -> None:
        """Say why there was no switch; for_good: the version that will never come.
        A log record that is kept would keep an error's traceback, and so memory: hence the text."""
        log.warning("predictions stay on their version: %s", why)
        with self._changed:
            self.lag = why
            self._given_up = max(self._given_up, for_good)
            self._changed.notify_all()

    def _tell_engine(self) -> None:
        """Let the daemon know when predictions run on another engine than the version's."""
        session = self._session
        if session is not None and (session.engine, session.note) != self._told:
            if self._told[1] or session.note:
                self._lease.runs_on(session.engine, session.note)
            if session.engine == "none":
                self._lease.unfit(self._version_now().number, session.note)
            self._told = (session.engine, session.note)

    def _lost(self, error: WeightdError) -> None:
        with contextlib.suppress(WeightdError):  # why it went may lie unread
            while (notice := self._lease.notice()) is not None:
                if isinstance(notice, protocol.Goodbye) and not self._is_closing:
                    self._heed(notice)
        if not self._is_closing and not self.lag:  # a Goodbye has said it
            why = str(error)  # the text alone, as above
            log.warning("%s; predictions go on with the version that is mapped", why)
