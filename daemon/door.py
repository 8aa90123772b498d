"""A listening socket in the loop: identifies who comes, turns away whom it must, and rests while
there are no descriptors."""

import contextlib
import logging
import resource
from collections.abc import Callable

from weightd.daemon.loop import Loop
from weightd.errors import BrokenPeerError, LimitError, RefusedError, to_wire
from weightd.ipc import protocol
from weightd.ipc.peer import Peer, credentials
from weightd.ipc.seqpacket import Connection, Listener

log = logging.getLogger("weightd.door")

_RESERVE = 32  # descriptors: libzmq ends the process when it finds none for a connection of its own
_REST_S = 0.1

WhenConnected = Callable[[Connection, Peer], object]
WhenRefused = Callable[[RefusedError, int, int], object]


class Door:
    """Owns the listener. Calls `when_connected` with each connection and its peer, which are the
    callee's then, unless it raises RefusedError: the peer is told and gone, and `when_refused` gets
    the error, PID and uid.

    When descriptors run out `make_room` may free some, and says whether it did; else the door rests
    a while, since a listener that cannot accept would keep the loop awake.
    """

    def __init__(
        self,
        loop: Loop,
        listener: Listener,
        when_connected: WhenConnected,
        when_refused: WhenRefused,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._when_connected = when_connected
        self._when_refused = when_refused
        self._make_room = make_room
        self._is_open = False
        self._open()

    def close(self) -> None:
        self._rest()
        self._listener.close()

    def let_go_in_child(self) -> None:
        """Close the copy of the listener that a forked child has; its name stays."""
        self._listener.sock.close()

    def _open(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add(self._listener.fileno(), self._accept)
            self._is_open = True

    def _rest(self) -> None:
        if self._is_open:
            self._loop.remove(self._listener.fileno())
            self._is_open = False

    def _accept(self) -> None:
        """One in each turn of the loop: what was done before it came, such as the end of another
        connection of the same process, has been seen by then."""
        try:
            connection = self._listener.accept()
        except OSError:
            if not self._make_room():
                self._rest()
                self._loop.call_later(_REST_S, self._open)
            return
        if connection is None:
            return
        if _is_among_the_last(connection.fileno()):
            connection.close()
            if not self._make_room():
                log.warning("turned a connection away: few descriptors are left")
            return
        self._admit(connection)

    def _admit(self, connection: Connection) -> None:
        try:
            peer = self._identify(connection)
        except RefusedError as error:
            self._turn_away(connection, error)
            return
        try:
            self._when_connected(connection, peer)
        except RefusedError as error:
            peer.process.close()
            self._turn_away(connection, error)

    def _identify(self, connection: Connection) -> Peer:
        try:
            return Peer.of(connection.sock)
        except OSError:
            self._make_room()
        try:
            return Peer.of(connection.sock)
        except OSError as error:
            raise LimitError(f"the daemon has no descriptor left: {error.strerror}") from error

    def _turn_away(self, connection: Connection, error: RefusedError) -> None:
        with connection:
            pid, uid, _ = credentials(connection.sock)
            self._when_refused(error, pid, uid)
            with contextlib.suppress(BrokenPeerError):
                connection.send(protocol.encode(protocol.Failed(*to_wire(error))))


def _is_among_the_last(fd: int) -> bool:
    """Whether few descriptors are left: the kernel gives the lowest number that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit >= 0 and fd >= limit - min(_RESERVE, limit // 4)
