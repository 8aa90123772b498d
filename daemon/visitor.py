"""One connection on the attach socket, as the daemon sees it."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from functools import partial

import msgspec

from weightd.daemon.loop import Loop
from weightd.errors import BrokenPeerError
from weightd.ipc.peer import Peer
from weightd.ipc.seqpacket import Connection, Received

UNREAD_RETRY_S = 0.01
PATIENCE = 1000  # looks at a peer that asks and does not read


class Visitor(msgspec.Struct, eq=False):
    """Owns its connection and its peer's pidfd. lease: the catalog's id, None before attach."""

    connection: Connection
    peer: Peer
    since_s: float
    lease: int | None = None
    has_notice: bool = False
    has_unread_fd: bool = False
    is_polled: bool = False
    pauses: int = 0
    is_closed: bool = False
    reader: "ThreadReader | None" = None

    def owes_reading(self) -> bool:
        """Whether a descriptor that was sent may still lie unread in the peer's queue."""
        if self.has_unread_fd and self.connection.unread_nbytes() == 0:
            self.has_unread_fd = False
            self.pauses = 0
        return self.has_unread_fd

    def close(self) -> None:
        self.is_closed = True
        if self.reader is not None:
            self.reader.stop()
        self.connection.close()
        self.peer.process.close()


class ThreadReader:
    """Receives one visitor's messages in a thread, and hands each to the loop. For kernels where
    a received descriptor that nobody asked for can stall the receiver for seconds."""

    def __init__(
        self,
        loop: Loop,
        visitor: Visitor,
        got: Callable[[Visitor, Received], object],
        ended: Callable[[Visitor], object],
    ) -> None:
        self._loop = loop
        self._visitor = visitor
        self._got = got
        self._ended = ended
        # Own descriptor: the loop closes the visitor's while this thread may still wait on it.
        self._connection = Connection(visitor.connection.sock.dup(), max_fds=0)
        self._taken = threading.Semaphore(1)  # one message that the loop has not answered yet
        self._thread = threading.Thread(target=self._run, name="attach-reader", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads
            self._connection.close()
            raise

    def stop(self) -> None:
        """Wake the thread, which then ends by itself."""
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RD)
        self._taken.release()

    def _run(self) -> None:
        with self._connection:
            while not self._visitor.is_closed:
                self._taken.acquire()
                self._wait_for_input()
                if not self._wait_until_read():
                    break
                try:
                    received = self._connection.receive()
                except BlockingIOError:
                    self._taken.release()
                    continue
                except BrokenPeerError:
                    break
                self._loop.call_soon(partial(self._hand_over, received))
        self._loop.call_soon(lambda: self._ended(self._visitor))

    def _wait_for_input(self) -> None:
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        poller.poll()

    def _wait_until_read(self) -> bool:
        """Backpressure, as the loop's own reader has it. False when the visitor was closed, or has
        not read for too long."""
        pause = threading.Event()
        for _ in range(PATIENCE):
            if self._visitor.is_closed:
                return False
            if not self._visitor.has_unread_fd or self._connection.unread_nbytes() == 0:
                self._visitor.has_unread_fd = False
                return True
            pause.wait(UNREAD_RETRY_S)
        return False

    def _hand_over(self, received: Received) -> None:
        if self._visitor.is_closed:
            received.close()
        else:
            self._got(self._visitor, received)
        self._taken.release()
