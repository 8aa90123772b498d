"""Answers workers: for each request of the attach plane one answer, and descriptors beside it.

I/O without rules: who may have what is the catalog's word.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol, assert_never

from weightd.daemon.catalog import Catalog, not_allowed
from weightd.daemon.fitting import Fitting
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Version
from weightd.daemon.processes import ProcessTable
from weightd.daemon.vault import Vault
from weightd.daemon.visitor import Visitor
from weightd.errors import BadRequestError, UnknownModelError
from weightd.ipc import protocol

Answer = tuple[protocol.Message | None, Sequence[int]]


class House(Protocol):
    """What the desk asks of the server."""

    def perform(self, actions: list[Action]) -> None: ...

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None: ...

    @property
    def incarnation(self) -> str: ...

    @property
    def admins(self) -> frozenset[int]: ...


class Desk:
    """since_s: when each lease began, unix seconds."""

    def __init__(
        self,
        loop: Loop,
        house: House,
        catalog: Catalog,
        vault: Vault,
        processes: ProcessTable,
        fitting: Fitting,
    ) -> None:
        self._loop = loop
        self._house = house
        self._catalog = catalog
        self._vault = vault
        self._processes = processes
        self._fitting = fitting
        self.since_s: dict[int, float] = {}

    def serve(  # noqa: C901 - one case for each request
        self, request: protocol.AttachRequest, visitor: Visitor
    ) -> Answer:
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
                self._house.emit("failed", name, request.version, pid, reason)
            case protocol.Unfit(version, reason):
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
        peer = visitor.peer
        try:
            lease = self._catalog.attach(request.model, peer.process.key, peer.uid, request.handle)
        except UnknownModelError as error:
            if peer.uid in self._house.admins or request.model is None:
                raise
            raise not_allowed(peer.pid, request.model) from error
        visitor.lease = lease.id
        self.since_s[lease.id] = time.time()
        # Told after the answer: the worker waits for this one.
        told = partial(self._house.emit, "attached", lease.model.name, lease.version, peer.pid)
        self._loop.call_soon(told)
        if request.held and request.incarnation == self._house.incarnation:
            held = self._catalog.resume(lease.id, request.held)
            if held:
                return protocol.Resumed(lease.model.live.number, tuple(held)), ()
        return self._grant(lease.id, lease.model.live)

    def _grant(self, lease: int, version: Version) -> Answer:
        filled = self._vault.get(version.uid)
        name = self._catalog.leases[lease].model.name
        granted = protocol.Granted(
            name, version.number, self._house.incarnation, filled.manifest.segments
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
        found = self._catalog.leases.get(lease)
        if found is None:
            return
        actions = self._catalog.detach(lease)
        self._house.emit("detached", found.model.name, found.version, found.pid)
        self._house.perform(actions)


def one_line(text: str) -> str:
    """A worker's own words, for the log: no line breaks, and nothing that a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in text)
