"""The control plane over ZeroMQ: a ROUTER for requests, another for events. The only file that
imports zmq.

Who sent a request is what the kernel says of the connection (Peer-Address), never what the
message says. A peer without kernel credentials (a PID namespace out of sight) is dropped, one of
ZMTP 1 or 2 hung up on. libzmq cannot bound a hostile peer's memory, so only owners and admins reach
this socket: the file mode is the gate.
"""

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
import zmq

from weightd.errors import ClosedError, DaemonTimeoutError, ForkedError, LostDaemonError
from weightd.ipc.protocol import MAX_MESSAGE_NBYTES
from weightd.ipc.seqpacket import give_to_group, no_daemon

_POLLIN = int(zmq.POLLIN)
_HIGH_WATER_MARK = 1000
_UNREAD = 16  # messages of one peer that wait in the daemon's memory; others wait in the peer's
_BACKLOG = 4096
_FAREWELL_MS = 200  # how long closing waits for replies to leave
_PROBE_S = 0.5  # how often a waiting client looks whether the daemon still lives
_MOST_FOLLOWERS = 1024
_MAX_TOPIC_NBYTES = 1024  # a model's name has at most 128 characters
_GAP = b""  # in the place of an event: some before it were left out


class Envelope(msgspec.Struct, frozen=True):
    """One request as it came in, with the credentials that the kernel gave."""

    route: bytes
    request_id: bytes
    pid: int
    uid: int
    gid: int
    raw: bytes


Sockets = Callable[[Path], socket.socket | None]  # what a service manager listens with at a path


class _Follower(msgspec.Struct):
    topic: bytes  # how the topics of the events that it wants begin
    has_missed: bool = False


class _Followers:
    """Whoever listens to events: each has said once how their topics begin. Owns the socket.

    Not a PUB: that keeps what hostile subscribers ask for when they are long gone, and tells nobody
    that an event was dropped because he is slow.
    """

    def __init__(self, sock: "zmq.Socket[bytes]") -> None:
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # who is gone is told, not skipped
        self.sock = sock
        self._of_route: dict[bytes, _Follower] = {}

    def take_in(self) -> bool:
        """The next who came; True when there was one, and may be another."""
        if not _has_input(self.sock):
            return False
        frames = self.sock.recv_multipart(zmq.NOBLOCK)
        if len(frames) == 2 and len(frames[1]) <= _MAX_TOPIC_NBYTES:
            self._add(*frames)
        return True

    def tell(self, topic: bytes, raw: bytes) -> None:
        for route, follower in list(self._of_route.items()):
            if topic.startswith(follower.topic):
                self._tell(route, follower, raw)

    def _add(self, route: bytes, topic: bytes) -> None:
        if len(self._of_route) >= _MOST_FOLLOWERS:  # most of those are gone, or he waits in vain
            for other, follower in list(self._of_route.items()):
                self._tell(other, follower, _GAP)
        if len(self._of_route) < _MOST_FOLLOWERS:
            self._of_route[route] = _Follower(topic)

    def _tell(self, route: bytes, follower: _Follower, raw: bytes) -> None:
        try:
            if follower.has_missed:
                self.sock.send_multipart([route, _GAP], zmq.NOBLOCK)
                follower.has_missed = False
            self.sock.send_multipart([route, raw], zmq.NOBLOCK)
        except zmq.Again:  # it does not read
            follower.has_missed = True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            del self._of_route[route]


class ControlServer:
    """The daemon's side. Owns both sockets, and their names but for those of `given` ones. gid: of
    the group that may connect, None for nobody but this user and root."""

    def __init__(
        self,
        control: Path,
        events: Path,
        *,
        gid: int | None = None,
        given: Sockets = lambda _: None,
    ) -> None:
        self._gid = gid
        self._names: list[Path] = []
        self._context = zmq.Context()
        self._router = self._bind(zmq.ROUTER, control, given(control))
        self._followers = _Followers(self._bind(zmq.ROUTER, events, given(events)))
        self.dropped = 0  # messages without credentials, or not of our shape
        self.is_due = True  # there may be something to receive

    def _bind(self, kind: int, path: Path, given: socket.socket | None) -> "zmq.Socket[bytes]":
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        sock.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_NBYTES)
        sock.setsockopt(zmq.RCVHWM, _UNREAD)
        sock.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
        sock.setsockopt(zmq.LINGER, _FAREWELL_MS)
        # Without it a second peer of a name is kept for ever.
        sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
        sock.setsockopt(zmq.ZAP_DOMAIN, b"weightd")  # nobody asks; but ZMTP 1 and 2 are refused
        if given is None:
            self._names.append(path)
        fd = _bound(path, self._gid) if given is None else given.detach()
        sock.setsockopt(zmq.USE_FD, fd)
        sock.bind(f"ipc://{path}")
        return sock

    def filenos(self) -> tuple[int, int]:
        """Whenever one of them is readable: woken(), then receive() while is_due."""
        sockets = (self._router, self._followers.sock)
        control, events = (int(sock.getsockopt(zmq.FD)) for sock in sockets)
        return control, events

    def woken(self) -> None:
        """libzmq has something for us. It says so once: the descriptors are edge-triggered, and a
        message that comes while one is sent may be said to nobody."""
        self.is_due = True

    def receive(self) -> Envelope | None:
        """The next request; None when none waits, or it is malformed, which is counted. One who
        follows events is taken in with it, if one came: whoever sends many waits as all do."""
        has_come = self._followers.take_in()
        has_request = _has_input(self._router)
        self.is_due = has_come or has_request
        if not has_request:
            return None
        envelope = _open(self._router.recv_multipart(zmq.NOBLOCK, copy=False))
        self.dropped += envelope is None
        return envelope

    def reply(self, envelope: Envelope, raw: bytes) -> None:
        """Send a reply. A peer that is gone, or does not read, loses it."""
        self.is_due = True
        try:
            self._router.send_multipart([envelope.route, envelope.request_id, raw], zmq.NOBLOCK)
        except zmq.Again:
            self.dropped += 1

    def publish(self, topic: str, raw: bytes) -> None:
        """Tell those who follow events with this topic. One who does not read hears that he has
        missed some, once he reads again."""
        self.is_due = True
        self._followers.tell(topic.encode(), raw)

    def close(self) -> None:
        self._router.close()
        self._followers.sock.close()
        self._context.term()
        for name in self._names:
            name.unlink(missing_ok=True)


def _has_input(sock: "zmq.Socket[bytes]") -> bool:
    """Who went meanwhile is forgotten, too: libzmq does that when it is asked something."""
    return bool(int(sock.getsockopt(zmq.EVENTS)) & _POLLIN)


def _bound(path: Path, gid: int | None) -> int:
    """A socket that listens at `path`, which only this user, a group and root reach. libzmq's own
    bind would need a umask, which is of all threads of the process."""
    path.unlink(missing_ok=True)  # of a daemon that was killed
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(os.fspath(path))
        if gid is not None:
            give_to_group(path, gid)
            path.chmod(0o660)
        sock.listen(_BACKLOG)
        return sock.detach()


def _open(frames: list[zmq.Frame]) -> Envelope | None:
    if len(frames) != 3 or len(frames[1]) > 16:
        return None
    try:
        host, uid, gid, pid = str(frames[2].get("Peer-Address")).rsplit(":", 3)
        numbers = int(pid), int(uid), int(gid)
    except (zmq.ZMQError, ValueError, KeyError):
        return None
    if host != "localhost":
        return None
    return Envelope(frames[0].bytes, frames[1].bytes, *numbers, frames[2].bytes)


class _Line:
    """A socket, and one that tells of its connection: of each `event` of libzmq's. Owns both."""

    def __init__(self, sock: "zmq.Socket[bytes]", event: int) -> None:
        self.sock = sock
        self.news = sock.get_monitor_socket(event)

    def forget_news(self) -> None:
        """What was lost before is of no interest: libzmq has connected again since, or will."""
        while self.news.poll(0):
            self.news.recv_multipart()

    def close(self) -> None:
        self.sock.disable_monitor()
        self.news.close(0)
        self.sock.close()


class ControlClient:
    """A client's side. Safe from several threads: each request has a socket to itself."""

    def __init__(self, control: Path, events: Path) -> None:
        self._control = control
        self._events = events
        self._context = zmq.Context()
        self._idle: list[_Line] = []
        self._pid = os.getpid()
        self._last_id = 0
        self._counting = threading.RLock()  # a request may end within the garbage collector
        self._in_use = 0
        self._is_closed = False

    def request(self, raw: bytes, *, timeout_s: float) -> Iterator[bytes]:
        """Send a request and yield its replies until the caller stops asking.

        Raises NoDaemonError when nobody is there, LostDaemonError when the daemon ended meanwhile,
        DaemonTimeoutError after `timeout_s` of silence, ClosedError when it was closed, perhaps
        meanwhile.
        """
        with self._using(), self._idle_line() as line:
            self._last_id += 1
            request_id = b"%x" % self._last_id
            line.forget_news()
            line.sock.send_multipart([request_id, raw])
            while True:
                if not self._wait(line, timeout_s):
                    raise LostDaemonError(
                        f"the daemon at {self._control} ended while it had this request: nobody "
                        "knows whether it was carried out; look with `weightd status`"
                    )
                reply_id, reply = line.sock.recv_multipart()
                if reply_id == request_id:  # not a late answer to one that was given up
                    yield reply

    def events(self, topic: str) -> Iterator[bytes | None]:
        """Yield the events whose topic begins so, from now on, until the caller stops asking; and
        None for each gap: where a connection begins, and where the caller was too slow.
        NoDaemonError when the daemon is gone, ClosedError when this was closed."""
        with self._using():
            line = self._line(zmq.DEALER, self._events, zmq.EVENT_HANDSHAKE_SUCCEEDED)
            try:
                while True:
                    self._wait(line, math.inf)
                    if line.news.poll(0):
                        line.forget_news()
                        line.sock.send(topic.encode())
                        yield None
                    else:
                        yield line.sock.recv() or None
            finally:
                line.close()

    def close(self) -> None:
        """At once. Requests of other threads end with ClosedError, and take their sockets along: a
        socket must not be touched by two threads."""
        if os.getpid() != self._pid:
            return  # a forked child must not touch its parent's context
        with self._counting:
            self._is_closed = True
            self._end_if_unused()

    @contextmanager
    def _using(self) -> Iterator[None]:
        if os.getpid() != self._pid:
            raise ForkedError("this Client was made before a fork; make one in the child")
        with self._counting:
            self._check_open()
            self._in_use += 1
        try:
            yield
        finally:
            with self._counting:
                self._in_use -= 1
                if self._is_closed:
                    self._end_if_unused()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this Client was closed")

    def _end_if_unused(self) -> None:
        if not self._in_use:
            while self._idle:
                self._idle.pop().close()
            self._context.term()

    @contextmanager
    def _idle_line(self) -> "Iterator[_Line]":
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._line(zmq.DEALER, self._control, zmq.EVENT_DISCONNECTED)
        try:
            yield line
        except LostDaemonError:  # what was sent on it is not to be sent to the next daemon
            line.close()
            raise
        except BaseException:
            self._idle.append(line)
            raise
        else:
            self._idle.append(line)

    def _line(self, kind: int, path: Path, event: int) -> _Line:
        self._probe()
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.ROUTING_ID, b"w" + os.urandom(16))  # who guesses it has our answers
        line = _Line(sock, event)
        sock.connect(f"ipc://{path}")
        return line

    def _wait(self, line: _Line, timeout_s: float) -> bool:
        """Until there is a message, True; or else news, False."""
        deadline = time.monotonic() + timeout_s
        poller = zmq.Poller()
        poller.register(line.sock, zmq.POLLIN)
        poller.register(line.news, zmq.POLLIN)
        while True:
            wait_s = min(_PROBE_S, max(0.0, deadline - time.monotonic()))
            found = dict(poller.poll(int(1000 * wait_s)))
            if found:
                return line.sock in found
            self._check_open()
            self._probe()
            if time.monotonic() >= deadline:
                raise DaemonTimeoutError(
                    f"the daemon at {self._control} has not answered for {timeout_s} s; it may "
                    "still carry the request out: look with `weightd status`"
                )

    def _probe(self) -> None:
        """libzmq retries for ever in silence; a plain connect tells whether anybody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            try:
                probe.connect(os.fspath(self._control))
            except (TimeoutError, BlockingIOError):
                return  # a busy daemon, or one whose queue is full, is a living one
            except OSError as error:
                raise no_daemon(self._control, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
