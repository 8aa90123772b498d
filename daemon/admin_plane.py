"""The admin socket: owners and admins bring files here, as descriptors that they opened.

The daemon never opens a path that a client names. An offered file waits under a ticket until a
load or publish takes it; it is given back when its connection closes, and a job that took it is
then cancelled: whoever asked is gone.
"""

import os
import socket
import stat
from collections.abc import Callable, Sequence

import msgspec

from weightd.daemon.audit import Audit
from weightd.daemon.counters import Counters
from weightd.daemon.door import Door
from weightd.daemon.loop import Loop
from weightd.errors import (
    BadRequestError,
    BrokenPeerError,
    LimitError,
    RefusedError,
    WeightdError,
    to_wire,
)
from weightd.ipc import protocol
from weightd.ipc.peer import Peer
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.seqpacket import Connection, Listener, Received

_MAX_CONNECTIONS = 64
_OFFERS_PER_CONNECTION = 4


class OfferedFile(msgspec.Struct, frozen=True):
    """A file and, for external data, its folder. Whoever has it closes it. key: of its own, and of
    its duplicates."""

    name: str
    file_fd: int
    folder_fd: int | None
    key: str = msgspec.field(default_factory=lambda: os.urandom(8).hex())

    def duplicate(self) -> "OfferedFile":
        """The same file, for another owner."""
        file_fd = os.dup(self.file_fd)
        try:
            folder_fd = os.dup(self.folder_fd) if self.folder_fd is not None else None
        except OSError:
            os.close(file_fd)
            raise
        return OfferedFile(self.name, file_fd, folder_fd, self.key)

    def close(self) -> None:
        os.close(self.file_fd)
        if self.folder_fd is not None:
            os.close(self.folder_fd)


class _Visitor(msgspec.Struct, eq=False):
    connection: Connection
    uid: int
    tickets: dict[int, OfferedFile | None]  # None: a job has taken it


class AdminPlane:
    """Owns its door, the connections and the offers that wait."""

    def __init__(  # noqa: PLR0913 - each is a part it needs
        self,
        loop: Loop,
        folder: RuntimeFolder,
        when_withdrawn: Callable[[int], object],
        audit: Audit,
        counters: Counters,
        *,
        gid: int | None,
        given: socket.socket | None = None,
    ) -> None:
        """gid: of the group that may come, None for nobody but the daemon's user and root."""
        self._loop = loop
        self._when_withdrawn = when_withdrawn
        self._audit = audit
        self._counters = counters
        self._visitors: set[_Visitor] = set()
        mode = 0o600 if gid is None else 0o660
        listener = Listener(folder.admin, mode=mode, max_fds=2, gid=gid, given=given)
        self._door = Door(loop, listener, self._welcome, self._turned_away)

    def take(self, ticket: int, uid: int) -> OfferedFile:
        """The file under a ticket, which this user must have offered. The caller closes it."""
        for visitor in self._visitors:
            offered = visitor.tickets.get(ticket)
            if offered is not None and visitor.uid == uid:
                visitor.tickets[ticket] = None
                return offered
        raise BadRequestError("there is no offered file under this ticket; offer it again")

    def close(self) -> None:
        for visitor in list(self._visitors):
            self._close(visitor)
        self._door.close()

    def let_go_in_child(self) -> None:
        """Close the copy of the listener that a forked child has."""
        self._door.let_go_in_child()

    def _welcome(self, connection: Connection, peer: Peer) -> None:
        if len(self._visitors) >= _MAX_CONNECTIONS:
            raise LimitError(
                f"files are being offered on {_MAX_CONNECTIONS} connections already; try again"
            )
        peer.process.close()
        visitor = _Visitor(connection, peer.uid, {})
        self._visitors.add(visitor)
        self._loop.add(connection.fileno(), lambda: self._read(visitor))

    def _turned_away(self, error: RefusedError, pid: int, uid: int) -> None:
        self._audit.turned_away(error, pid, uid)
        self._counters.refused("admin", error)

    def _read(self, visitor: _Visitor) -> None:
        try:
            received = visitor.connection.receive()
        except BlockingIOError:
            return
        except BrokenPeerError:
            self._close(visitor)
            return
        reply = self._answer(visitor, received)
        try:
            visitor.connection.send(protocol.encode(reply))
        except WeightdError:
            self._close(visitor)

    def _answer(self, visitor: _Visitor, received: Received) -> protocol.Message:
        try:
            offered = protocol.Offered(_keep(visitor, received))
            self._counters.requests["admin"]["Offer"] += 1
            return offered
        except RefusedError as error:
            self._counters.refused("admin", error)
            received.close()
            return protocol.Failed(*to_wire(error))

    def _close(self, visitor: _Visitor) -> None:
        self._visitors.discard(visitor)
        self._loop.remove(visitor.connection.fileno())
        visitor.connection.close()
        for ticket, offered in visitor.tickets.items():
            if offered is not None:
                offered.close()
            else:
                self._when_withdrawn(ticket)


def _check_kinds(fds: Sequence[int]) -> None:
    """They may be kept for as long as a version: no sockets, and a folder is a folder."""
    try:
        modes = [os.fstat(fd).st_mode for fd in fds]
    except OSError as error:
        raise BadRequestError(f"what is offered cannot be looked at: {error.strerror}") from error
    if stat.S_ISSOCK(modes[0]) or not all(map(stat.S_ISDIR, modes[1:])):
        raise BadRequestError("an offer brings a file, and perhaps the folder that it lies in")


def _keep(visitor: _Visitor, received: Received) -> int:
    offer = protocol.decode(received.raw, protocol.Offer)
    wanted = 2 if offer.has_folder else 1
    if len(received.fds) != wanted:
        raise BadRequestError(f"an offer brings {wanted} descriptors, this one {len(received.fds)}")
    if len(visitor.tickets) >= _OFFERS_PER_CONNECTION:
        raise LimitError(f"a connection offers at most {_OFFERS_PER_CONNECTION} files")
    _check_kinds(received.fds)
    if received.sender_pidfd is not None:
        os.close(received.sender_pidfd)
    ticket = int.from_bytes(os.urandom(8))
    folder_fd = received.fds[1] if offer.has_folder else None
    visitor.tickets[ticket] = OfferedFile(offer.name, received.fds[0], folder_fd)
    return ticket
