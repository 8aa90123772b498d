"""The daemon: puts the planes, the catalog and the memory together, and performs actions.

I/O without rules: what may happen is decided in catalog.py and roles.py. It runs in one thread,
that of run(); stop() may be called from any.
"""

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import assert_never

from weightd._version import __version__
from weightd.daemon.admin_plane import AdminPlane, OfferedFile
from weightd.daemon.attach_plane import AttachPlane
from weightd.daemon.catalog import Catalog, not_allowed
from weightd.daemon.control_plane import ControlPlane
from weightd.daemon.fitting import Fitting
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Free, Model, Notify, TellRevoked, Version
from weightd.daemon.processes import ProcessTable
from weightd.daemon.publisher import Asker, Publisher
from weightd.daemon.settings import Settings
from weightd.daemon.vault import Vault
from weightd.daemon.visitor import Visitor
from weightd.errors import BadRequestError, UnknownModelError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.peer import Key, identity_kind
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.status import ModelStatus, VersionStatus, WorkerStatus

log = logging.getLogger("weightd.daemon")

_DRAIN_S = 10.0


class Server:
    """One daemon on one runtime folder, whose lock the caller holds. Owns everything else."""

    def __init__(self, folder: RuntimeFolder, settings: Settings) -> None:
        self.is_stopping = False
        self.incarnation = secrets.token_hex(8)
        self._folder = folder
        self._settings = settings
        self._identity = identity_kind()
        self.admins = frozenset({0, os.geteuid()})
        self._started_s = time.time()
        self._to_load: list[tuple[str, OfferedFile]] = []
        self._since: dict[int, float] = {}  # lease -> when it began, unix seconds
        self._loop = Loop()
        self._catalog = Catalog(keep=settings.keep, leases_per_uid=settings.leases_per_uid)
        self._vault = Vault()
        self._processes = ProcessTable(self._loop, self._process_ended)
        self._publisher = Publisher(self._loop, self._catalog, self._vault, settings, self)
        self._open_planes()
        self._fitting = Fitting(self._catalog, self._publisher, self._attach_plane.tell)

    def _open_planes(self) -> None:
        settings = self._settings
        self._folder.create(0o711 if settings.attach_public else 0o700)
        self._attach_plane = AttachPlane(
            self._loop,
            self._folder,
            self,
            mode=0o666 if settings.attach_public else 0o600,
            read_in_threads=settings.read_in_threads,
            hello_deadline_s=settings.hello_deadline_s,
        )
        self._admin_plane = AdminPlane(self._loop, self._folder, self._publisher.withdraw)
        self._control_plane = ControlPlane(
            self._loop,
            self._folder,
            self,
            self._catalog,
            self._processes,
            self._admin_plane,
            self._publisher,
        )

    # --- life ----------------------------------------------------------------------------

    def load(self, files: dict[str, OfferedFile]) -> None:
        """Begin to load the models that the daemon's own settings name, one after the other. A
        failure is logged, and the next one is loaded. Owns the files from here on."""
        self._to_load += files.items()
        self._load_next()

    def _load_next(self) -> None:
        while self._to_load and not self.is_stopping:
            name, offered = self._to_load.pop(0)
            asker = Asker(os.geteuid(), None, lambda _: None, partial(self._loaded, name))
            try:
                self._publisher.load(protocol.Load(name, 0), offered, asker)
            except WeightdError as error:
                log.error("model %s was not loaded: %s", name, error)
            else:
                return

    def _loaded(self, name: str, result: protocol.Live | WeightdError) -> None:
        if isinstance(result, WeightdError):
            log.error("model %s was not loaded: %s", name, result)
        self._load_next()

    def run(self) -> None:
        """Serve until stop(), then close everything."""
        log.info(
            "ready at %s (processes told apart by %s; workers read %s)",
            self._folder.path,
            self._identity,
            "in threads" if self._attach_plane.reads_in_threads else "in the loop",
        )
        try:
            self._loop.run()
        finally:
            self._close()

    def stop(self, reason: str) -> None:
        """Drain and end: refuse new work, stop stagers, tell the workers. From any thread, and from
        a signal handler."""
        self._loop.call_soon(partial(self._drain, reason))

    def _drain(self, reason: str) -> None:
        if self.is_stopping:
            return
        log.info("stopping: %s", reason)
        self.is_stopping = True
        self._control_plane.emit(protocol.Event("stopping", "", 0, 0, reason))
        self._publisher.cancel_all("the daemon is stopping")
        self._attach_plane.say_goodbye(f"the daemon stops ({reason})")
        self._stop_when_idle(time.monotonic() + _DRAIN_S)

    def _stop_when_idle(self, deadline_s: float) -> None:
        if self._publisher.is_idle:
            self._loop.stop()
        elif time.monotonic() > deadline_s:  # one in an uninterruptible read, on a dead NFS say
            log.error("a stager cannot be ended; stopping without waiting for it")
            self._loop.stop()
        else:
            self._loop.call_later(0.01, partial(self._stop_when_idle, deadline_s))

    def _close(self) -> None:
        for _, offered in self._to_load:
            offered.close()
        self._attach_plane.close()
        self._admin_plane.close()
        self._control_plane.close()
        self._processes.close()
        self._publisher.close()
        self._vault.close()
        self._loop.close()

    def let_go_in_child(self) -> None:
        """In a forked child of the process that serves: close the copies of the workers'
        connections, of the socket that they come to, and of the memory. Nothing is told to the
        loop, whose selector is the parent's too."""
        self._attach_plane.let_go_in_child()
        self._admin_plane.let_go_in_child()
        self._vault.close()

    # --- actions -------------------------------------------------------------------------

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Notify(lease, version):
                    self._attach_plane.tell(lease, protocol.Notice(version))
                case TellRevoked(lease, reason):
                    self._attach_plane.tell(lease, protocol.Revocation(reason))
                case Free(model, version, uid):
                    nbytes = self._vault.free(uid)
                    self._publisher.freed(uid)
                    self.emit("freed", model, version, 0, f"{nbytes} bytes")
                case _:
                    assert_never(action)
        self._processes.keep_only(self._wanted())

    def _wanted(self) -> set[Key]:
        leases = {lease.key for lease in self._catalog.leases.values()}
        return self._catalog.whitelisted() | leases

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None:
        """Tell the log and whoever listens to events."""
        log.info("%s %s version %d pid %d %s", what, model, version, pid, text)
        self._control_plane.emit(protocol.Event(what, model, version, pid, text))

    def settled(self, model: str, error: WeightdError | None) -> None:
        if not self.is_stopping:
            self._fitting.settled(model, error)

    def _process_ended(self, key: Key) -> None:
        self._attach_plane.end_leases_of(key)
        self.perform(self._catalog.process_ended(key))

    # --- workers -------------------------------------------------------------------------

    def serve_worker(  # noqa: C901 - one case for each request
        self, request: protocol.AttachRequest, visitor: Visitor
    ) -> tuple[protocol.Message | None, Sequence[int]]:
        """Answer one request of the attach plane."""
        match request:
            case protocol.CurrentPid():
                self._processes.remember(visitor.peer.process)
                return protocol.YourPid(visitor.peer.pid), ()
            case protocol.Attach():
                return self._attach(request, visitor)
        if visitor.lease is None:
            raise BadRequestError(f"{type(request).__name__} before Attach")
        match request:
            case protocol.Pull():
                visitor.has_notice = False
                return self._grant(visitor.lease, self._catalog.pull(visitor.lease))
            case protocol.Fetch():
                return self._fetch(visitor.lease, request)
            case protocol.Switched():
                self._switched(visitor.lease, request)
            case protocol.NotSwitched():
                reason = one_line(request.reason)
                self._catalog.not_switched(visitor.lease, request.version, reason)
                name, pid = self._name(visitor), visitor.peer.pid
                self.emit("failed", name, request.version, pid, reason)
            case protocol.Unfit(version, reason):
                self._fitting.ask(visitor.lease, version, one_line(reason))
            case protocol.RunsOn():
                self._runs_on(visitor, request)
            case protocol.Released():
                self.perform(self._catalog.released(visitor.lease, request.version))
            case _:
                assert_never(request)
        return None, ()

    def _attach(
        self, request: protocol.Attach, visitor: Visitor
    ) -> tuple[protocol.Message, Sequence[int]]:
        if visitor.lease is not None:
            raise BadRequestError("this connection has a lease already")
        if request.protocol != protocol.PROTOCOL_VERSION:
            raise BadRequestError(
                f"this worker speaks protocol {request.protocol}, the daemon "
                f"{protocol.PROTOCOL_VERSION}: install one version of weightd on both sides"
            )
        peer = visitor.peer
        try:
            lease = self._catalog.attach(request.model, peer.process.key, peer.uid, request.handle)
        except UnknownModelError as error:
            if peer.uid in self.admins or request.model is None:
                raise
            raise not_allowed(peer.pid, request.model) from error
        visitor.lease = lease.id
        self._since[lease.id] = time.time()
        # Told after the answer: the worker waits for this one.
        told = partial(self.emit, "attached", lease.model.name, lease.version, peer.pid)
        self._loop.call_soon(told)
        return self._grant(lease.id, lease.model.live)

    def _grant(self, lease: int, version: Version) -> tuple[protocol.Message, Sequence[int]]:
        filled = self._vault.get(version.uid)
        name = self._catalog.leases[lease].model.name
        granted = protocol.Granted(name, version.number, self.incarnation, filled.manifest.segments)
        return granted, (filled.segments[0].fileno(),)

    def _fetch(self, lease: int, request: protocol.Fetch) -> tuple[protocol.Message, Sequence[int]]:
        version = self._catalog.held_by(lease, request.version)
        segments = self._vault.get(version.uid).segments
        if request.index >= len(segments):
            raise BadRequestError(f"version {request.version} has no segment {request.index}")
        fetched = protocol.Fetched(version.number, request.index)
        return fetched, (segments[request.index].fileno(),)

    def _switched(self, lease: int, request: protocol.Switched) -> None:
        self._catalog.switched(lease, request.version, request.pause_us)
        held = self._catalog.leases[lease]
        self.emit("switched", held.model.name, request.version, held.pid)

    def _runs_on(self, visitor: Visitor, request: protocol.RunsOn) -> None:
        assert visitor.lease is not None
        engine, note = one_line(request.engine), one_line(request.note)
        self._catalog.runs_on(visitor.lease, engine, note)
        if note:
            version = self._catalog.leases[visitor.lease].version
            text = f"to {engine}: {note}"
            self.emit("fell-back", self._name(visitor), version, visitor.peer.pid, text)

    def _name(self, visitor: Visitor) -> str:
        assert visitor.lease is not None
        return self._catalog.leases[visitor.lease].model.name

    def worker_left(self, lease: int) -> None:
        """Its connection ended."""
        self._since.pop(lease, None)
        found = self._catalog.leases.get(lease)
        if found is None:
            return
        actions = self._catalog.detach(lease)
        self.emit("detached", found.model.name, found.version, found.pid)
        self.perform(actions)

    def live(self, name: str) -> protocol.Live:
        """The live version of a model, as a reply."""
        version = self._catalog.model(name).live
        return protocol.Live(name, version.number, self._vault.get(version.uid).nbytes)

    # --- status --------------------------------------------------------------------------

    def status(self) -> protocol.DaemonStatus:
        return protocol.DaemonStatus(
            pid=os.getpid(),
            incarnation=self.incarnation,
            version=__version__,
            uptime_s=time.time() - self._started_s,
            runtime_dir=str(self._folder.path),
            identity=self._identity,
            held_nbytes=self._vault.nbytes,
            budget_nbytes=self._settings.memory_budget,
            models={name: self._model_status(m) for name, m in self._catalog.models.items()},
            workers=tuple(
                WorkerStatus(
                    pid=lease.pid,
                    uid=lease.uid,
                    model=lease.model.name,
                    version=lease.version,
                    since_unix_s=self._since[lease.id],
                    switches=lease.switches,
                    last_pause_us=lease.last_pause_us,
                    lag=lease.lag,
                    engine=lease.engine,
                    note=lease.note,
                )
                for lease in self._catalog.leases.values()
            ),
            staging=self._publisher.status(),
        )

    def _model_status(self, model: Model) -> ModelStatus:
        manifest = self._vault.get(model.live.uid).manifest
        return ModelStatus(
            name=model.name,
            owner_uid=model.owner_uid,
            live=model.live.number,
            layout=manifest.layout,
            engine=manifest.stamp.get("engine", ""),
            note=_note(manifest.stamp),
            source=manifest.source,
            nbytes=self._vault.nbytes_of(v.uid for v in model.versions.values()),
            versions=tuple(self._version_status(v) for v in model.versions.values()),
            allowed_pids=tuple(model.allowed_pids()),
        )

    def _version_status(self, version: Version) -> VersionStatus:
        return VersionStatus(
            number=version.number,
            state=version.state.name,
            nbytes=self._vault.get(version.uid).nbytes,
            shared_nbytes=self._vault.shared_nbytes(version.uid),
            leases=len(version.leases),
        )


def one_line(text: str) -> str:
    """A worker's own words, for the log: no line breaks, and nothing that a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in text)


def _note(stamp: Mapping[str, str]) -> str:
    """What people should know of a version."""
    notes = [stamp.get("note", "")]
    if whom := stamp.get("kept_for"):
        notes.append(f"original tensors are kept, until the model is unloaded, for {whom}")
    return "; ".join(filter(None, notes))
