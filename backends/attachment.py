"""A worker's use of one model: the lease, the mapped version, the engine's session, and the thread
that follows new versions.

    daemon ──notice──► watcher thread ──pull──► map ──► session.swap() ──switched──► daemon
                                                            ▲ predictions go on, each on one version

The watcher is the only thread that speaks on the lease. What other threads have for it (an old
version's last array went; close() was called) they put in a queue and ring its bell.
"""

import logging
import os
import queue
import select
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Self, assert_never

from weightd.backends.base import Session, named
from weightd.backends.ports import TensorInfo, checked_inputs, infos_of
from weightd.backends.version import MappedVersion
from weightd.errors import (
    BadInputError,
    ClosedError,
    DaemonTimeoutError,
    ForkedError,
    RefusedError,
    WeightdError,
)
from weightd.ipc import protocol
from weightd.ipc.bell import Bell
from weightd.ipc.lease import Grant, Lease, Notices
from weightd.ipc.runtime import RuntimeFolder
from weightd.weights.arrays import Array

log = logging.getLogger("weightd.worker")

_CLOSE_S = 5.0


class Weights(Mapping[str, Array]):
    """One version's tensors by their names in the source file: read-only, zero-copy, C-contiguous.

    A snapshot: it stays with its version when the attachment switches. As long as it, or an array
    out of it, exists, the version stays mapped here and held by the daemon. A name that the
    optimiser merged or renamed raises UnknownTensorError (a KeyError), which says what to do.
    """

    def __init__(self, version: MappedVersion) -> None:
        self._version = version

    @property
    def version(self) -> int:
        return self._version.number

    def __getitem__(self, name: str) -> Array:
        return self._version.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._version.manifest.tensors)

    def __len__(self) -> int:
        return len(self._version.manifest.tensors)

    def __repr__(self) -> str:
        return f"<weights of {self._version.manifest.model} v{self.version}: {len(self)} tensors>"


class Attachment:
    """One model, attached. Made by weightd.attach(); use it as `with`, or close() it.

    Safe from several threads. A forked child cannot use it (ForkedError) and attaches itself. When
    the daemon ends it goes on predicting on what it has; is_connected then says False.
    """

    def __init__(self, lease: Lease, grant: Grant, *, threads: int) -> None:
        self._pid = os.getpid()
        self._lease = lease
        self._threads = threads
        self._bell = Bell()
        self._unmapped: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._mappings: Counter[int] = Counter()  # of each version; a rollback can bring a second
        self._is_closing = False
        self._changed = threading.Condition()
        self.is_connected = True
        self.lag = ""
        self._mapped: MappedVersion | None = self._map(grant)
        self._session: Session | None = None
        if self._mapped.manifest.layout == "compiled":
            engine = named(self._mapped.manifest.stamp["engine"])
            self._session = engine.open(self._mapped, threads=threads)
        self._watcher = threading.Thread(
            target=self._watch, name=f"weightd:{grant.model}", daemon=True
        )
        self._watcher.start()

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
        """'plain', 'reference', or '' for weights without a graph."""
        return self._version_now().manifest.stamp["engine"]

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
        mapped = self._version_now()
        session = self._session
        if session is None:
            mapped.graph()  # says that there is none
            raise ClosedError("this attachment was closed")
        return session.run(checked_inputs(inputs, mapped.manifest.inputs))

    def wait_for_version(self, number: int, *, timeout_s: float) -> None:
        """Return once predictions run on this version; DaemonTimeoutError says why they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.version == number, timeout_s):
                why = f": {self.lag}" if self.lag else ""
                raise DaemonTimeoutError(
                    f"{self.model!r} still runs version {self.version}, not {number}, after "
                    f"{timeout_s} s{why}"
                )

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
        if not self._unmapped.empty():  # no array is left: the daemon hears of it before we return
            self._watcher.join(_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._mapped is None:
            return "<Attachment closed>"
        connected = "" if self.is_connected else ", daemon gone"
        return (
            f"<Attachment {self.model} v{self.version} by {self.engine or 'no engine'}{connected}>"
        )

    # --- versions ------------------------------------------------------------------------

    def _version_now(self) -> MappedVersion:
        if self._pid != os.getpid():
            raise ForkedError(
                "this attachment belongs to the parent process; a forked child calls "
                "weightd.attach() itself (and must be allowed itself)"
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

        mapped = MappedVersion(grant, when_unmapped)
        self._mappings[mapped.number] += 1
        return mapped

    # --- the watcher thread --------------------------------------------------------------

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._bell, select.POLLIN)
        poller.register(self._lease, select.POLLIN)
        try:
            while not (self._is_closing and not self._mappings):
                poller.poll()
                self._turn()
        except WeightdError as error:
            self._lost(error)
        finally:
            self.is_connected = False
            self._lease.close()

    def _turn(self) -> None:
        self._bell.hush()
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
            case protocol.Revocation() | protocol.Goodbye():
                log.warning("process %d gets no new versions: %s", self._pid, notice.reason)
                self.lag = notice.reason
            case _:
                assert_never(notice)

    def _follow(self) -> None:
        """Switch to the live version, or stay on the old one and say why."""
        try:
            mapped = self._map(self._lease.pull())
        except RefusedError as error:
            self.lag = str(error)
            log.warning("predictions stay on their version: %s", self.lag)
            return
        try:
            pause_us = self._switch(mapped)
        except ClosedError:
            return
        except WeightdError as error:
            self.lag = str(error)
            self._lease.not_switched(mapped.number, self.lag)
            # The text alone: a log record that is kept would keep the traceback, and so the memory.
            log.warning("predictions stay on their version: %s", self.lag)
            return
        self._lease.switched(mapped.number, pause_us)

    def _switch(self, mapped: MappedVersion) -> float:
        session = self._session
        pause_us = session.swap(mapped) if session is not None else 0.0
        with self._changed:
            if self._is_closing:
                raise ClosedError("this attachment was closed")
            self._mapped = mapped
            self.lag = ""
            self._changed.notify_all()
        return pause_us

    def _lost(self, error: WeightdError) -> None:
        if not self._is_closing and not self.lag:  # a Goodbye has said it
            log.warning("%s; predictions go on with the version that is mapped", error)


def attach(
    name: str,
    handle: int | None = None,
    *,
    runtime_dir: str | os.PathLike[str] | None = None,
    threads: int = 1,
    timeout_s: float = 10.0,
) -> Attachment:
    """Attach this process to a model of the daemon: map its live version and open an engine on it.

    The kernel tells the daemon who this process is; it must have been allowed (Client.allow).
    handle: the number that allow() returned, or None. runtime_dir: the daemon's folder, None for
    the default. threads: of the engine, for one prediction. timeout_s: how long each answer of
    the daemon may take. The caller owns the attachment and closes it.

    Raises NoDaemonError, NotAllowedError, BadHandleError, UnknownModelError, LimitError,
    EngineMismatchError, DaemonTimeoutError.
    """
    if threads < 1:
        raise BadInputError(f"threads is {threads}; it must be at least 1")
    lease = Lease(RuntimeFolder.find(runtime_dir, os.environ), timeout_s=timeout_s)
    try:
        return Attachment(lease, lease.attach(name, handle), threads=threads)
    except BaseException:
        lease.close()
        raise


def current_pid(
    *, runtime_dir: str | os.PathLike[str] | None = None, timeout_s: float = 10.0
) -> int:
    """This process's PID as the kernel reports it to the daemon: what to give to Client.allow.

    In a container it differs from os.getpid(). Works for every user whom the daemon's attach
    socket lets in. Raises NoDaemonError, NotAllowedError (no PID here), DaemonTimeoutError.
    """
    lease = Lease(RuntimeFolder.find(runtime_dir, os.environ), timeout_s=timeout_s)
    try:
        return lease.current_pid()
    finally:
        lease.close()
