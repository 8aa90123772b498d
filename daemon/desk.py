"""Answers workers: for each request of the attach plane one answer, and descriptors beside it.

I/O without rules: who may have what is the catalog's word.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol, assert_never

from weightd.daemon.audit import Audit, one_line
from weightd.daemon.catalog import Catalog
from weightd.daemon.counters import Counters
from weightd.daemon.fitting import Fitting
from weightd.daemon.limits import Requests
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Lease, Version
from weightd.daemon.policy import Guest, Kind, not_allowed
from weightd.daemon.processes import ProcessTable
from weightd.daemon.roles import Roles, name_of
from weightd.daemon.vault import Vault
from weightd.daemon.visitor import Visitor
from weightd.errors import BadRequestError, LimitError, RefusedError, UnknownModelError
from weightd.ipc import linux, protocol, unit
from weightd.ipc.peer import Peer, Process

Answer = tuple[protocol.Message | None, Sequence[int]]

_QUESTIONS = (protocol.CurrentPid, protocol.Attach, protocol.Pull, protocol.Fetch)


class House(Protocol):
    """What the desk asks of the server."""

    def perform(self, actions: list[Action]) -> None: ...

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def incarnation(self) -> str: ...

    @property
    def roles(self) -> Roles: ...


class Desk:
    """since_s: when each lease began, unix seconds."""

    def __init__(  # noqa: PLR0913, PLR0917 - whatever an answer is made of
        self,
        loop: Loop,
        house: House,
        catalog: Catalog,
        vault: Vault,
        processes: ProcessTable,
        fitting: Fitting,
        audit: Audit,
        requests: Requests,
    ) -> None:
        self._loop = loop
        self._house = house
        self._catalog = catalog
        self._vault = vault
        self._processes = processes
        self._fitting = fitting
        self._audit = audit
        self._requests = requests
        self._holders: dict[int, Visitor] = {}  # by lease
        self.since_s: dict[int, float] = {}

    def serve(self, request: protocol.AttachRequest, visitor: Visitor) -> Answer:
        """Answer one request of the attach plane. What a worker reports is taken even from one who
        asks too often: a version that it does not hold any more would be kept else."""
        peer = visitor.peer
        try:
            self.count_request(peer)
        except LimitError as error:
            if isinstance(request, _QUESTIONS):
                self._audit.refused(name_of(type(request)), error, pid=peer.pid, uid=peer.uid)
                raise
        return self._serve(request, visitor)

    def count_request(self, peer: Peer) -> None:
        """LimitError when the processes of this user ask too often."""
        is_admin = self._house.roles.is_admin(peer.uid, peer.gid)
        self._requests.check(peer.uid, self._loop.now_s(), is_admin=is_admin)

    def _serve(  # noqa: C901 - one case for each request
        self, request: protocol.AttachRequest, visitor: Visitor
    ) -> Answer:
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
                self._house.counters.not_switched += 1
                name, pid = self._name(visitor), visitor.peer.pid
                self._house.emit("failed", name, request.version, pid, reason)
            case protocol.Unfit(version, reason):
                self._house.counters.unfit += 1
                self._fitting.ask(visitor.lease, version, one_line(reason))
            case protocol.RunsOn():
                self._runs_on(visitor, request)
            case protocol.Released():
                self._house.perform(self._catalog.released(visitor.lease, request.version))
            case _:
                assert_never(request)
        return None, ()

    def _attach(self, request: protocol.Attach, visitor: Visitor) -> Answer:
        if visitor.lease is not None:
            raise BadRequestError("this connection has a lease already")
        if request.protocol != protocol.PROTOCOL_VERSION:
            raise BadRequestError(
                f"this worker speaks protocol {request.protocol}, the daemon "
                f"{protocol.PROTOCOL_VERSION}: install one version of weightd on both sides"
            )
        peer, named = visitor.peer, request.model or ""
        try:
            lease = self._let_in(request, visitor)
        except RefusedError as error:
            self._audit.refused("attach", error, pid=peer.pid, uid=peer.uid, model=named)
            raise
        visitor.lease = lease.id
        self.since_s[lease.id] = time.time()
        self._holders[lease.id] = visitor
        # Told after the answer: the worker waits for this one.
        self._loop.call_next(partial(self._tell_attached, lease, peer))
        if request.held and request.incarnation == self._house.incarnation:
            held = self._catalog.resume(lease.id, request.held)
            if held:
                return protocol.Resumed(lease.model.live.number, tuple(held)), ()
        return self._grant(lease.id, lease.model.live)

    def _let_in(self, request: protocol.Attach, visitor: Visitor) -> Lease:
        peer = visitor.peer
        guest = describe(visitor, self._catalog.asked_kinds())
        try:
            lease = self._catalog.attach(request.model, peer.process.key, guest, request.handle)
        except UnknownModelError as error:
            if request.model is None or self._house.roles.is_admin(peer.uid, peer.gid):
                raise
            raise not_allowed(guest, request.model) from error
        try:
            self._watch(peer.process)
        except LimitError:
            self._catalog.detach(lease.id)
            raise
        return lease

    def _watch(self, process: Process) -> None:
        """Watch the process for as long as it has a lease: a child of it may hold the connection
        open. It is watched already where it was allowed by its PID."""
        if self._processes.is_watched(process.key):
            return
        try:
            again = process.duplicate()
        except OSError as error:
            raise LimitError(f"the daemon has no descriptor left: {error.strerror}") from error
        self._processes.watch(again)

    def _tell_attached(self, lease: Lease, peer: Peer) -> None:
        name, by = lease.model.name, str(lease.by or "pid")
        self._house.emit("attached", name, lease.version, peer.pid)
        self._audit.note(
            "attach", "granted", pid=peer.pid, uid=peer.uid, model=name, reason=f"by {by}"
        )

    def guests(self, model: str, kinds: frozenset[Kind]) -> dict[int, Guest]:
        """Who holds each lease of a model, as far as rules of these kinds need to know."""
        leases = self._catalog.leases
        return {
            lease: describe(visitor, kinds)
            for lease, visitor in self._holders.items()
            if leases[lease].model.name == model
        }

    def _grant(self, lease: int, version: Version) -> Answer:
        filled = self._vault.get(version.uid)
        name = self._catalog.leases[lease].model.name
        granted = protocol.Granted(
            name,
            version.number,
            self._house.incarnation,
            filled.manifest.segments,
            version.uid,
        )
        return granted, (filled.segments[0].fileno(),)

    def _fetch(self, lease: int, request: protocol.Fetch) -> Answer:
        version = self._catalog.held_by(lease, request.version)
        segments = self._vault.get(version.uid).segments
        if request.index >= len(segments):
            raise BadRequestError(f"version {request.version} has no segment {request.index}")
        fetched = protocol.Fetched(version.number, request.index)
        return fetched, (segments[request.index].fileno(),)

    def _switched(self, lease: int, request: protocol.Switched) -> None:
        self._catalog.switched(lease, request.version, request.pause_us)
        self._house.counters.switch_pause_us.add(request.pause_us)
        held = self._catalog.leases[lease]
        self._house.emit("switched", held.model.name, request.version, held.pid)

    def _runs_on(self, visitor: Visitor, request: protocol.RunsOn) -> None:
        assert visitor.lease is not None
        engine, note = one_line(request.engine), one_line(request.note)
        self._catalog.runs_on(visitor.lease, engine, note)
        if note:
            version = self._catalog.leases[visitor.lease].version
            text = f"to {engine}: {note}"
            self._house.emit("fell-back", self._name(visitor), version, visitor.peer.pid, text)

    def _name(self, visitor: Visitor) -> str:
        assert visitor.lease is not None
        return self._catalog.leases[visitor.lease].model.name

    def left(self, lease: int) -> None:
        """Its connection ended."""
        self.since_s.pop(lease, None)
        self._holders.pop(lease, None)
        found = self._catalog.leases.get(lease)
        if found is None:
            return
        actions = self._catalog.detach(lease)
        self._house.emit("detached", found.model.name, found.version, found.pid)
        self._house.perform(actions)


def describe(visitor: Visitor, kinds: frozenset[Kind]) -> Guest:
    """What the kernel says of whoever is at the other end, as far as rules of these kinds ask."""
    peer = visitor.peer
    groups: frozenset[int] = frozenset()
    if "gid" in kinds:
        groups = linux.peer_groups(visitor.connection.sock)
    membership = unit.Membership()
    if "unit" in kinds:
        membership = unit.unit_of(peer.process)
    return Guest(peer.pid, peer.uid, peer.gid, groups, membership.unit, membership.fault)
