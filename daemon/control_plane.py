"""The control plane: decode a request, check its role, carry it out, reply. Rules are the
catalog's; who sent it is the kernel's word."""

import logging
import secrets
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol, assert_never

from weightd.daemon import roles
from weightd.daemon.admin_plane import AdminPlane
from weightd.daemon.catalog import Catalog
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action
from weightd.daemon.processes import ProcessTable
from weightd.daemon.publisher import Asker, Publisher
from weightd.errors import BusyError, RefusedError, WeightdError, to_wire
from weightd.ipc import protocol
from weightd.ipc.channel import ControlServer, Envelope
from weightd.ipc.peer import Process, check_credentials
from weightd.ipc.runtime import RuntimeFolder

log = logging.getLogger("weightd.control")

_REQUESTS_PER_TURN = 64


class House(Protocol):
    """What the control plane asks of the server."""

    def perform(self, actions: list[Action]) -> None: ...

    def status(self) -> protocol.DaemonStatus: ...

    def stop(self, reason: str) -> None: ...

    def live(self, name: str) -> protocol.Live: ...

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None: ...

    @property
    def is_stopping(self) -> bool: ...

    @property
    def admins(self) -> frozenset[int]: ...


class ControlPlane:
    """Owns the control and event sockets."""

    def __init__(  # noqa: PLR0913, PLR0917 - whatever a request is passed on to
        self,
        loop: Loop,
        folder: RuntimeFolder,
        house: House,
        catalog: Catalog,
        processes: ProcessTable,
        admin_plane: AdminPlane,
        publisher: Publisher,
    ) -> None:
        self._loop = loop
        self._house = house
        self._catalog = catalog
        self._processes = processes
        self._admin_plane = admin_plane
        self._publisher = publisher
        self._server = ControlServer(folder.control, folder.events)
        self._fd = self._server.fileno()
        loop.add(self._fd, lambda: None)  # edge-triggered: the turn below reads
        loop.before_sleep(self._turn)

    def emit(self, event: protocol.Event) -> None:
        self._server.publish(event.model, protocol.encode(event))

    def close(self) -> None:
        self._loop.remove(self._fd)
        self._server.close()

    def _turn(self) -> bool:
        """Answer some requests; True when more wait."""
        for _ in range(_REQUESTS_PER_TURN):
            envelope = self._server.receive()
            if envelope is None:
                return False
            self._serve(envelope)
        return True

    def _serve(self, envelope: Envelope) -> None:
        try:
            check_credentials(envelope.pid, envelope.uid)
            request = protocol.decode(envelope.raw, protocol.ControlRequest)
            self._check_role(request, envelope.uid)
            reply = self._handle(request, envelope)
        except WeightdError as error:
            log.info("refused pid %d uid %d: %s", envelope.pid, envelope.uid, error)
            reply = protocol.Failed(*to_wire(error))
        if reply is not None:
            self._reply(envelope, reply)

    def _reply(self, envelope: Envelope, message: protocol.Message) -> None:
        self._server.reply(envelope, protocol.encode(message))

    def _check_role(self, request: protocol.ControlRequest, uid: int) -> None:
        name = getattr(request, "model", None)
        owner = None
        if name in self._catalog.models:
            owner = self._catalog.models[name].owner_uid
        elif name is not None:
            owner = self._publisher.owner_of_staged(name)
        roles.check(request, uid, owner, self._house.admins)
        if self._house.is_stopping and not isinstance(request, protocol.Status):
            raise BusyError("the daemon is stopping")

    def _handle(  # noqa: C901, PLR0911 - one case for each request
        self, request: protocol.ControlRequest, envelope: Envelope
    ) -> protocol.ControlReply | None:
        match request:
            case protocol.CurrentPid():
                return self._current_pid(envelope)
            case protocol.Load() | protocol.Publish() | protocol.Update():
                self._stage(request, envelope)
                return None  # the answer comes when the stager is done
            case protocol.Unload():
                self._house.perform(self._catalog.unload(request.model))
                self._house.emit("unloaded", request.model, 0, envelope.pid)
            case protocol.Allow():
                return self._allow(request, envelope.pid)
            case protocol.Revoke():
                return self._revoke(request, envelope.pid)
            case protocol.Rollback():
                self._house.perform(
                    self._catalog.rollback(request.model, request.version, request.once)
                )
                live = self._house.live(request.model)
                self._house.emit("rolled-back", live.model, live.version, envelope.pid)
                return live
            case protocol.Cancel():
                self._publisher.cancel(request.model, f"by process {envelope.pid}")
            case protocol.Status():
                return self._house.status()
            case protocol.Shutdown():
                self._house.stop(f"process {envelope.pid} asked for it")
            case _:
                assert_never(request)
        return protocol.Done()

    def _current_pid(self, envelope: Envelope) -> protocol.YourPid:
        with Process.of_pid(envelope.pid) as process:
            self._processes.remember(process)
        return protocol.YourPid(envelope.pid)

    def _stage(
        self, request: protocol.Load | protocol.Publish | protocol.Update, envelope: Envelope
    ) -> None:
        offered = self._admin_plane.take(request.ticket, envelope.uid)
        asker = Asker(
            envelope.uid,
            request.ticket,
            on_progress=partial(self._reply, envelope),
            answer=lambda result: self._reply(
                envelope,
                protocol.Failed(*to_wire(result)) if isinstance(result, WeightdError) else result,
            ),
        )
        match request:
            case protocol.Load():
                self._publisher.load(request, offered, asker)
            case protocol.Publish():
                self._publisher.publish(request, offered, asker)
            case protocol.Update():
                self._publisher.update(request, offered, asker)
            case _:
                assert_never(request)

    def _allow(self, request: protocol.Allow, asker: int) -> protocol.Allowed:
        self._catalog.model(request.model)
        if not request.pids:
            raise RefusedError("allow needs at least one PID")
        with ExitStack() as on_error:
            found = [on_error.enter_context(self._processes.open(pid)) for pid in request.pids]
            on_error.pop_all()
        handle = secrets.randbits(64)
        self._catalog.allow(request.model, {p.key: p.pid for p in found}, handle)
        for process in found:
            self._processes.watch(process)
        self._house.perform([])
        self._house.emit("allowed", request.model, 0, asker, _listed(request.pids))
        return protocol.Allowed(handle)

    def _revoke(self, request: protocol.Revoke, asker: int) -> protocol.Revoked:
        leases = [x for x in self._catalog.leases.values() if x.model.name == request.model]
        pids, actions = self._catalog.revoke(request.model, set(request.pids))
        holders = {lease.pid: lease.key for lease in leases if lease.pid in pids}
        killed, not_killed = [], []
        for pid, key in holders.items() if request.kill else ():
            fault = _kill(self._processes.get(key))
            if fault is None:
                killed.append(pid)
            else:
                not_killed.append(f"{pid}: {fault}")
        self._house.perform(actions)  # after the kill: it may let the pidfds go
        still = [pid for pid in holders if pid not in killed]
        self._house.emit("revoked", request.model, 0, asker, _listed(sorted(pids)))
        return protocol.Revoked(tuple(sorted(pids)), tuple(still), tuple(killed), tuple(not_killed))


def _listed(pids: Sequence[int]) -> str:
    return "pids " + ", ".join(map(str, pids))


def _kill(process: Process | None) -> str | None:
    """Kill by pidfd; the reason when it cannot be done."""
    if process is None:
        return "it has ended"
    try:
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    except OSError as error:
        return error.strerror or str(error)
    return None
