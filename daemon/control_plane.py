"""The control plane: decode a request, check its role, carry it out, reply. Rules are the
catalog's; who sent it is the kernel's word."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, assert_never

from weightd.daemon.admin_plane import AdminPlane
from weightd.daemon.admission import Admission
from weightd.daemon.asker import Asker
from weightd.daemon.audit import Audit
from weightd.daemon.catalog import Catalog
from weightd.daemon.counters import Counters
from weightd.daemon.limits import Requests
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action
from weightd.daemon.processes import ProcessTable
from weightd.daemon.publisher import Publisher
from weightd.daemon.roles import Roles, name_of
from weightd.daemon.scrubbing import Scrubbing
from weightd.errors import BusyError, WeightdError, to_wire
from weightd.ipc import protocol
from weightd.ipc.channel import ControlServer, Envelope, Sockets
from weightd.ipc.counts import Counts
from weightd.ipc.peer import Process, check_credentials
from weightd.ipc.runtime import RuntimeFolder

_REQUESTS_PER_TURN = 4  # a worker's request waits for no more of them
_GROWING = (protocol.Load, protocol.Publish, protocol.Update, protocol.Allow, protocol.Deny)
_NAMED = 8  # PIDs and rules, in the record


class House(Protocol):
    """What the control plane asks of the server."""

    def perform(self, actions: list[Action]) -> None: ...

    def status(self) -> protocol.DaemonStatus: ...

    def stop(self, reason: str) -> None: ...

    def restart(
        self, reason: str, answer: Callable[[protocol.Done | WeightdError], None]
    ) -> None: ...

    def check_state_room(self) -> None: ...

    def live(self, name: str) -> protocol.Live: ...

    def outcome(self, name: str, once: int) -> protocol.Live | None: ...

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def is_stopping(self) -> bool: ...

    @property
    def roles(self) -> Roles: ...


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
        admission: Admission,
        scrubbing: Scrubbing,
        audit: Audit,
        requests: Requests,
        *,
        gid: int | None,
        given: Sockets = lambda _: None,
    ) -> None:
        self._loop = loop
        self._house = house
        self._catalog = catalog
        self._processes = processes
        self._admin_plane = admin_plane
        self._publisher = publisher
        self._admission = admission
        self._scrubbing = scrubbing
        self._audit = audit
        self._requests = requests
        self._server = ControlServer(folder.control, folder.events, gid=gid, given=given)
        self._fds = self._server.filenos()
        for fd in self._fds:
            loop.add(fd, self._server.woken)
        loop.before_sleep(self._turn)

    def emit(self, event: protocol.Event) -> None:
        self._server.publish(event.model, protocol.encode(event))

    def close(self) -> None:
        for fd in self._fds:
            self._loop.remove(fd)
        self._server.close()

    def _turn(self) -> bool:
        """Answer some requests; True when more wait."""
        for _ in range(_REQUESTS_PER_TURN):
            if not self._server.is_due:
                return False
            envelope = self._server.receive()
            if envelope is not None:
                self._serve(envelope)
        return True

    def _serve(self, envelope: Envelope) -> None:
        request: protocol.ControlRequest | None = None
        try:
            check_credentials(envelope.pid, envelope.uid)
            self._count(envelope)
            request = protocol.decode(envelope.raw, protocol.ControlRequest)
            self._house.counters.requested("control", request)
            self._check_role(request, envelope)
            if isinstance(request, _GROWING):
                self._house.check_state_room()
            reply = self._handle(request, envelope)
        except WeightdError as error:
            self._note(envelope, request, error)
            self._house.counters.refused("control", error)
            reply = protocol.Failed(*to_wire(error))
        else:
            if reply is not None:
                self._note(envelope, request)
        if reply is not None:
            self._reply(envelope, reply)

    def _count(self, envelope: Envelope) -> None:
        is_admin = self._house.roles.is_admin(envelope.uid, envelope.gid)
        self._requests.check(envelope.uid, self._loop.now_s(), is_admin=is_admin)

    def _note(
        self,
        envelope: Envelope,
        request: protocol.ControlRequest | None,
        error: WeightdError | None = None,
    ) -> None:
        """For the record. Who only asks how things are is not in it, unless refused."""
        what = "request" if request is None else name_of(type(request))
        pid, uid, model = envelope.pid, envelope.uid, getattr(request, "model", "")
        if error is not None:
            self._audit.refused(what, error, pid=pid, uid=uid, model=model)
        elif not isinstance(request, protocol.Status | protocol.Counters | protocol.CurrentPid):
            self._audit.note(what, "done", pid=pid, uid=uid, model=model, reason=_detail(request))

    def _reply(self, envelope: Envelope, message: protocol.Message) -> None:
        self._server.reply(envelope, protocol.encode(message))

    def _answer_to(self, envelope: Envelope) -> Callable[[protocol.Message | WeightdError], None]:
        """What sends the one answer to a request that takes its time."""

        def answer(result: protocol.Message | WeightdError) -> None:
            if isinstance(result, WeightdError):
                result = protocol.Failed(*to_wire(result))
            self._reply(envelope, result)

        return answer

    def _check_role(self, request: protocol.ControlRequest, envelope: Envelope) -> None:
        name = getattr(request, "model", None)
        owner = None
        if name is not None:
            owner = self._catalog.owner_of(name)
            owner = self._publisher.owner_of_staged(name) if owner is None else owner
        self._house.roles.check(request, envelope.uid, envelope.gid, owner)
        is_question = isinstance(request, protocol.Status | protocol.Counters)
        if self._house.is_stopping and not is_question:
            raise BusyError("the daemon is stopping")

    def _counts(self) -> Counts:
        return self._house.counters.snapshot(
            dropped=self._server.dropped, damaged_versions=self._scrubbing.damaged_versions
        )

    def _handle(  # noqa: C901, PLR0911, PLR0912 - one case for each request
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
                return self._admission.allow(request, envelope.pid)
            case protocol.Deny():
                return self._admission.deny(request, envelope.pid)
            case protocol.Revoke():
                return self._admission.revoke(request, envelope.pid)
            case protocol.Rollback():
                return self._rollback(request, envelope.pid)
            case protocol.Cancel():
                self._publisher.cancel(request.model, f"by process {envelope.pid}")
            case protocol.Verify():
                on_progress = partial(self._reply, envelope)
                self._scrubbing.verify(request.model, on_progress, self._answer_to(envelope))
                return None  # the answer comes when all is compared
            case protocol.Status():
                return self._house.status()
            case protocol.Upgrade():
                why = f"process {envelope.pid} asked for an upgrade"
                self._house.restart(why, self._answer_to(envelope))
                return None  # the answer comes when it is sure that somebody keeps the weights
            case protocol.Counters():
                return protocol.Tally(self._counts())
            case protocol.Shutdown():
                self._house.stop(f"process {envelope.pid} asked for it")
            case _:
                assert_never(request)
        return protocol.Done()

    def _rollback(self, request: protocol.Rollback, pid: int) -> protocol.Live:
        if (made := self._house.outcome(request.model, request.once)) is not None:
            return made
        actions = self._catalog.rollback(request.model, request.version, request.once)
        self._house.perform(actions)
        live = self._house.live(request.model)
        self._house.emit("rolled-back", live.model, live.version, pid)
        return live

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
            answer=partial(self._staged, request, envelope),
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

    def _staged(
        self,
        request: protocol.Load | protocol.Publish | protocol.Update,
        envelope: Envelope,
        result: protocol.Live | WeightdError,
    ) -> None:
        if isinstance(result, WeightdError):
            self._note(envelope, request, result)
            self._reply(envelope, protocol.Failed(*to_wire(result)))
        else:
            self._note(envelope, request)
            self._reply(envelope, result)


def _detail(request: protocol.ControlRequest | None) -> str:
    """What a request was about, beside the model."""
    match request:
        case protocol.Allow(_, pids, rules) | protocol.Revoke(_, pids, _, rules):
            return " ".join((*map(str, pids[:_NAMED]), *rules[:_NAMED]))
        case protocol.Deny(_, rules, is_lifted):
            return " ".join((*(["lifted"] if is_lifted else []), *rules[:_NAMED]))
        case protocol.Rollback(_, version):
            return "" if version is None else f"to {version}"
    return ""
