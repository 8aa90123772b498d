"""The attach socket: workers learn their PID here, begin leases and pull versions.

Whoever can reach the machine can connect, so nothing here trusts or waits for a peer:

* identity is the kernel's; each message is checked against the process that connected;
* a descriptor is sent only to a peer that has read everything before it (backpressure: its next
  request waits), so one that never reads pins one descriptor;
* a peer without a lease is closed after a while, sooner when many of its user's pile up;
* descriptors from peers are off in the kernel (SO_PASSRIGHTS, Linux 6.16); before that each
  connection is read in a thread of its own, so that a stalled receive stalls its sender alone.
"""

import logging
import socket
import time
from collections.abc import Sequence, Set
from functools import partial
from typing import Protocol

from weightd.daemon.audit import Audit
from weightd.daemon.counters import Counters
from weightd.daemon.door import Door
from weightd.daemon.loop import Loop
from weightd.daemon.visitor import PATIENCE, UNREAD_RETRY_S, ThreadReader, Visitor
from weightd.errors import (
    BadRequestError,
    BrokenPeerError,
    LimitError,
    RefusedError,
    to_wire,
)
from weightd.ipc import protocol
from weightd.ipc.peer import Key, Peer, sent_by
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.seqpacket import Connection, Listener, Received

log = logging.getLogger("weightd.attach")

_SILENT_PER_UID = 256
_SILENT_TOTAL = 1024
_SILENT_THREADS = 128
_SWEEP_S = 1.0
_EVICTED_AT_ONCE = 8  # when descriptors run out


class Desk(Protocol):
    """What the attach plane asks of the desk: one request, one answer with descriptors to send
    (which stay the desk's)."""

    def serve(
        self, request: protocol.AttachRequest, visitor: Visitor
    ) -> tuple[protocol.Message | None, Sequence[int]]: ...

    def count_request(self, peer: Peer) -> None: ...

    def left(self, lease: int) -> None: ...


class AttachPlane:
    """Owns its door and every connection. lease ids are the catalog's."""

    def __init__(  # noqa: PLR0913 - each is a part it needs
        self,
        loop: Loop,
        folder: RuntimeFolder,
        desk: Desk,
        audit: Audit,
        counters: Counters,
        *,
        mode: int,
        read_in_threads: bool,
        hello_deadline_s: float,
        given: socket.socket | None = None,
    ) -> None:
        self._loop = loop
        self._desk = desk
        self._audit = audit
        self._counters = counters
        listener = Listener(folder.attach, mode=mode, max_fds=0, given=given)
        self._in_threads = read_in_threads or not listener.refuses_descriptors
        self._silent_total = _SILENT_THREADS if self._in_threads else _SILENT_TOTAL
        self.hello_deadline_s = hello_deadline_s
        self._visitors: dict[int, Visitor] = {}  # by descriptor, oldest first
        self._by_lease: dict[int, Visitor] = {}
        self._door = Door(loop, listener, self._welcome, self._turned_away, self._make_room)
        loop.call_later(_SWEEP_S, self._sweep)

    @property
    def reads_in_threads(self) -> bool:
        return self._in_threads

    def tell(
        self, lease: int, message: protocol.Notice | protocol.Revocation | protocol.Unhelped
    ) -> None:
        """Send a notice to a worker. One that is not read yet is not sent again."""
        visitor = self._by_lease.get(lease)
        if visitor is None:
            return
        if isinstance(message, protocol.Notice):
            if visitor.has_notice:
                return
            visitor.has_notice = True
            self._counters.notices += 1
        self._send(visitor, message)

    def say_goodbye(self, reason: str) -> None:
        for visitor in list(self._by_lease.values()):
            self._send(visitor, protocol.Goodbye(reason))

    def end_leases_of(self, keys: Set[Key]) -> None:
        """Close the connections of processes that are gone (a child may hold them open)."""
        for visitor in [v for v in self._visitors.values() if v.peer.process.key in keys]:
            self._close(visitor)

    def close(self) -> None:
        for visitor in list(self._visitors.values()):
            self._close(visitor)
        self._door.close()

    def let_go_in_child(self) -> None:
        """Close the copies that a forked child has."""
        for visitor in self._visitors.values():
            visitor.connection.close()
        self._door.let_go_in_child()

    # --- connections ---------------------------------------------------------------------

    def _welcome(self, connection: Connection, peer: Peer) -> None:
        self._desk.count_request(peer)
        visitor = Visitor(connection, peer, time.monotonic())
        self._visitors[connection.fileno()] = visitor
        self._keep_bounds(peer.uid)
        if self._in_threads:
            self._read_in_thread(visitor)
            return
        # Most have asked by now. What came before, on other connections, is read before.
        self._loop.call_next(partial(self._begin, visitor))

    def _begin(self, visitor: Visitor) -> None:
        if not visitor.is_closed:
            self._read(visitor)
        if not visitor.is_closed:
            self._poll(visitor)

    def _turned_away(self, error: RefusedError, pid: int, uid: int) -> None:
        self._audit.turned_away(error, pid, uid)
        self._counters.refused("attach", error)

    def _poll(self, visitor: Visitor) -> None:
        self._loop.add(visitor.connection.fileno(), lambda: self._read(visitor))
        visitor.is_polled = True

    def _stop_polling(self, visitor: Visitor) -> None:
        if visitor.is_polled:
            self._loop.remove(visitor.connection.fileno())
            visitor.is_polled = False

    def _read_in_thread(self, visitor: Visitor) -> None:
        try:
            visitor.reader = ThreadReader(self._loop, visitor, self._got, self._close)
        except (OSError, RuntimeError) as error:  # out of descriptors or threads
            log.warning("process %d is turned away: %s", visitor.peer.pid, error)
            self._close(visitor)
            self._make_room()

    def _silent(self, uid: int | None = None) -> list[Visitor]:
        """Those without a lease, oldest first."""
        return [
            visitor
            for visitor in self._visitors.values()
            if visitor.lease is None and uid in (None, visitor.peer.uid)
        ]

    def _make_room(self) -> bool:
        """Descriptors have run out: those of the silent go to the next ones."""
        silent = self._silent()
        self._evict(silent[:_EVICTED_AT_ONCE])
        return bool(silent)

    def _keep_bounds(self, uid: int) -> None:
        silent = len(self._visitors) - len(self._by_lease)
        if silent <= min(_SILENT_PER_UID, self._silent_total):
            return
        mine, everybody = self._silent(uid), self._silent()
        self._evict(mine[: max(0, len(mine) - _SILENT_PER_UID)])
        self._evict(everybody[: max(0, len(everybody) - self._silent_total)])

    def _evict(self, visitors: list[Visitor]) -> None:
        for visitor in visitors:
            self._counters.evictions += 1
            self._close(visitor)

    def _sweep(self) -> None:
        late = time.monotonic() - self.hello_deadline_s
        self._evict([visitor for visitor in self._silent() if visitor.since_s < late])
        self._loop.call_later(_SWEEP_S, self._sweep)

    def _close(self, visitor: Visitor) -> None:
        if visitor.is_closed:
            return
        del self._visitors[visitor.connection.fileno()]
        self._stop_polling(visitor)
        lease = visitor.lease
        visitor.close()
        if lease is not None:
            self._by_lease.pop(lease, None)
            self._desk.left(lease)

    # --- messages ------------------------------------------------------------------------

    def _read(self, visitor: Visitor) -> None:
        if visitor.owes_reading():
            self._pause(visitor)
            return
        try:
            received = visitor.connection.receive()
        except BlockingIOError:
            return
        except BrokenPeerError as error:
            log.debug("process %d: %s", visitor.peer.pid, error)
            self._close(visitor)
            return
        self._got(visitor, received)

    def _pause(self, visitor: Visitor) -> None:
        """Look again in a moment; a peer that is gone shows by then, or in the sweep."""
        self._stop_polling(visitor)
        visitor.pauses += 1
        if visitor.pauses > PATIENCE:
            self._close(visitor)
            return
        self._loop.call_later(UNREAD_RETRY_S, lambda: self._resume(visitor))

    def _resume(self, visitor: Visitor) -> None:
        if not visitor.is_closed:
            self._poll(visitor)

    def _got(self, visitor: Visitor, received: Received) -> None:
        try:
            if _is_from(visitor, received):
                self._answer(visitor, received.raw)
            else:
                self._is_another(visitor)
        finally:
            received.close()

    def _is_another(self, visitor: Visitor) -> None:
        self._audit.note(
            "message",
            "refused",
            pid=visitor.peer.pid,
            uid=visitor.peer.uid,
            reason="it came from another process; the connection is closed",
        )
        self._close(visitor)

    def _answer(self, visitor: Visitor, raw: bytes) -> None:
        try:
            request = protocol.decode(raw, protocol.AttachRequest)
            self._counters.requested("attach", request)
            reply, fds = self._desk.serve(request, visitor)
        except BadRequestError as error:
            self._counters.refused("attach", error)
            self._send(visitor, protocol.Failed(*to_wire(error)))
            self._close(visitor)
            return
        except RefusedError as error:
            self._counters.refused("attach", error)
            reply, fds = protocol.Failed(*to_wire(error)), ()
        if visitor.lease is not None:
            self._by_lease[visitor.lease] = visitor
        if reply is not None:
            self._send(visitor, reply, fds)

    def _send(self, visitor: Visitor, message: protocol.Message, fds: Sequence[int] = ()) -> None:
        try:
            is_sent = visitor.connection.send(protocol.encode(message), fds)
        except LimitError as error:  # others do not read theirs: this one hears why, and may retry
            self._counters.refused("attach", error)
            self._send(visitor, protocol.Failed(*to_wire(error)))
            is_sent = False
        except BrokenPeerError as error:
            log.info("process %d: %s", visitor.peer.pid, error)
            is_sent = False
        if not is_sent:  # it does not read: its lease ends, nobody waits for it
            self._close(visitor)
        elif fds:
            visitor.has_unread_fd = True


def _is_from(visitor: Visitor, received: Received) -> bool:
    if received.sender_pidfd is None:
        return True  # a kernel before 6.5 does not tell
    try:
        return sent_by(visitor.peer.process, received.sender_pidfd)
    except OSError:
        return False
