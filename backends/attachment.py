"""A worker's use of one model: the mapped version, and the engine's session on it.

A watcher follows new versions (watcher.py); predictions go on meanwhile, each on one version.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Self

from weightd.backends.base import Session
from weightd.backends.ending import end_with_the_process
from weightd.backends.helping import helped
from weightd.backends.mappings import Mappings
from weightd.backends.ports import TensorInfo, checked_inputs, infos_of
from weightd.backends.sessions import session_on
from weightd.backends.threads import ONE, Threads
from weightd.backends.version import MappedVersion, Weights
from weightd.backends.watcher import Watcher
from weightd.errors import (
    ClosedError,
    DaemonTimeoutError,
    ForkedError,
    InsufficientMemoryError,
    TensorsNeededError,
    UsageError,
)
from weightd.ipc.bell import Bell
from weightd.ipc.lease import Grant, Lease
from weightd.weights.arrays import Array

log = logging.getLogger("weightd.worker")

_CLOSE_S = 5.0
_RETURN_S = 2.0  # a daemon that is restarted is back by then
_HELP_S = 900.0  # for staging a version that this process can use; the daemon has its own limit


class Attachment:
    """One model, attached. Made by weightd.attach(); use it as `with`, or close() it.

    Safe from several threads. A forked child cannot use it (ForkedError) and attaches itself. When
    the daemon ends it goes on predicting on what it has; is_connected then says False, until the
    daemon is there again.
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
        self._folder = lease.folder
        self._model = grant.model
        self._threads = threads
        self._bell = Bell()
        self._mappings = Mappings(self._bell)
        self._changed = threading.Condition()
        self.is_closing = False
        self.is_connected = True
        self._alone_since_s = 0.0
        self.lag = ""
        self._given_up = 0  # the number of a version that will never come
        self._mapped: MappedVersion | None
        self._session: Session | None
        mapped = self._mappings.map(grant)
        self._mapped, self._session = self._opened_or_helped(lease, mapped, inherited)
        if self._mapped.number != grant.version:
            lease.switched(self._mapped.number, 0.0)
        self._watcher = Watcher(
            lease,
            grant.incarnation,
            self,
            self._mappings,
            self._bell,
            comes_back=not lease.folder.is_embedded,
        )
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
                if not self._watcher.knows(session.note):
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
                lambda: max(self.version, self._given_up) >= number or self._is_alone,
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
        lease = Lease(self._folder, timeout_s=timeout_s)
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
            if self.is_closing:
                return
            self.is_closing = True
            if self._session is not None:
                self._session.close()
            self._session = None
            self._mapped = None
        self._bell.ring()
        if self._mappings.has_news:  # no array is left: the daemon hears
            self._watcher.join(_CLOSE_S)

    def end(self) -> None:
        """Close, and return when no switch is under way, nor will be: the process ends."""
        self.close()
        if self._pid == os.getpid():
            self._watcher.halt()

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

    @property
    def _is_alone(self) -> bool:
        """Whether there is no daemon, nor one to be expected."""
        gone_s = 0.0 if self.is_connected else time.monotonic() - self._alone_since_s
        return gone_s > (_RETURN_S if self._watcher.comes_back else 0.0)

    # --- for the watcher -----------------------------------------------------------------

    @property
    def running(self) -> MappedVersion | None:
        return self._mapped

    @property
    def spoken_of(self) -> tuple[str, str] | None:
        session = self._session
        try:
            return (session.engine, session.note) if session is not None else None
        except ClosedError:  # meanwhile; the lease stays for arrays that do
            return None

    def connected(self, is_so: bool, why: str = "") -> None:
        with self._changed:
            if self.is_connected and not is_so:
                self._alone_since_s = time.monotonic()
            self.is_connected = is_so
            if is_so or why:
                self.lag = why
            self._changed.notify_all()

    def switch(self, mapped: MappedVersion) -> float:
        """See Follower: this is what the watcher switches."""
        try:
            return self._switch(mapped)
        except MemoryError as error:
            raise InsufficientMemoryError(
                f"there is no memory to switch to version {mapped.number}"
            ) from error

    def _switch(self, mapped: MappedVersion) -> float:
        session, pause_us = self._session, 0.0
        if self.is_closing:
            raise ClosedError("this attachment was closed")
        if session is not None and session.compiled_by == mapped.manifest.stamp["engine"]:
            pause_us = session.swap(mapped)
        else:  # runs that are on the old one keep it to their end
            session = session_on(mapped, None, self._threads)
        with self._changed:
            if not self.is_closing:
                self._mapped, self._session, self.lag = mapped, session, ""
                self._changed.notify_all()
                return pause_us
        if session is not None:
            session.close()
        raise ClosedError("this attachment was closed")

    def stays(self, why: str, *, for_good: int = 0) -> None:
        """Say why there was no switch; for_good: the version that will never come.
        A log record that is kept would keep an error's traceback, and so memory: hence the text."""
        log.warning("predictions stay on their version: %s", why)
        with self._changed:
            self.lag = why
            self._given_up = max(self._given_up, for_good)
            self._changed.notify_all()

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

    def _opened_or_helped(
        self, lease: Lease, mapped: MappedVersion, current: Session | None
    ) -> tuple[MappedVersion, Session | None]:
        """The version and a session on it; or, where this process cannot use what was compiled,
        the version that the daemon makes for it."""
        deadline_s = time.monotonic() + _HELP_S
        while True:
            try:
                return mapped, session_on(mapped, current, self._threads)
            except TensorsNeededError as error:
                grant = helped(lease, mapped.number, error, deadline_s)
                mapped, current = self._mappings.map(grant), None
