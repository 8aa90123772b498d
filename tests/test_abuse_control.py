"""The control and admin sockets against peers that only the file mode has let in: raw ZMTP of every
version, garbage, silence, files that are none. The daemon lives and answers."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import weightd
from tests.daemons import LENET, Daemon, running_daemon
from tests.helpers import wait_until
from tests.raw import control, daemon_unharmed, raw_admin
from tests.zmtp import Zmtp3, frames, handshake, stream, zmtp1, zmtp2
from weightd.errors import BadRequestError, LimitError, from_wire
from weightd.ipc import protocol
from weightd.ipc.protocol import pack
from weightd.stress.zmtp import GREETING, ready

STATUS = protocol.encode(protocol.Status())
SHUTDOWN = protocol.encode(protocol.Shutdown())
OFFER = protocol.Offer("file")


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with running_daemon() as daemon:
        daemon.client.status()
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """A daemon that must be as it was when the test has ended, and hold nothing."""
    with daemon_unharmed(shared):
        yield shared
        assert shared.client.current_pid() == os.getpid()
        assert shared.client.status().models == {}
        wait_until(lambda: shared.client.status().held_nbytes == 0)


def answer_to(daemon: Daemon, raw: bytes, **properties: bytes) -> Any:
    with stream(daemon.folder.control) as sock:
        peer = Zmtp3(sock, **properties)
        peer.say(b"1", raw)
        request_id, reply = peer.hear()
        assert request_id == b"1"
        return protocol.decode(reply, protocol.ControlReply)


def test_a_peer_made_by_hand_is_served_as_the_process_that_it_is(daemon: Daemon) -> None:
    request = protocol.encode(protocol.CurrentPid())
    assert answer_to(daemon, request) == protocol.YourPid(os.getpid())
    spoofed = {"Peer_Address": b"localhost:0:0:1", "Identity": b"someone"}
    assert answer_to(daemon, request, **spoofed) == protocol.YourPid(os.getpid())
    assert answer_to(daemon, request, Identity=b"i" * 255).pid == os.getpid()


@pytest.mark.parametrize("dialect", [zmtp1, zmtp2])
def test_a_peer_of_an_old_zmtp_is_hung_up_on(daemon: Daemon, dialect: Callable[..., bytes]) -> None:
    with stream(daemon.folder.control) as sock:
        sock.sendall(dialect(b"1", SHUTDOWN))
        with contextlib.suppress(ConnectionError):
            while sock.recv(64):  # the daemon's greeting, then it hangs up
                pass
    for _ in range(20):
        assert daemon.client.status().pid == daemon.pid
    assert "stopping" not in daemon.log()


def test_the_last_of_two_peers_with_one_name_has_it(daemon: Daemon) -> None:
    with stream(daemon.folder.control) as first, stream(daemon.folder.control) as last:
        earlier = Zmtp3(first, Identity=b"name")
        earlier.say(b"1", STATUS)
        assert earlier.hear()[0] == b"1"  # else the last would hear that, too
        peer = Zmtp3(last, Identity=b"name")
        peer.say(b"2", STATUS)
        assert peer.hear()[0] == b"2"


@pytest.mark.parametrize(
    "parts",
    [(SHUTDOWN,), (b"", b"1", SHUTDOWN), (b"1", SHUTDOWN, b""), (b"1" * 17, SHUTDOWN), (b"",) * 99],
    ids=["one frame", "a delimiter", "a frame too many", "a long id", "99 frames"],
)
def test_a_message_of_another_shape_is_dropped_and_the_connection_goes_on(
    daemon: Daemon, parts: tuple[bytes, ...]
) -> None:
    with stream(daemon.folder.control) as sock:
        peer = Zmtp3(sock)
        peer.say(*parts)
        peer.say(b"2", STATUS)
        assert peer.hear()[0] == b"2"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        SHUTDOWN[:-1],
        SHUTDOWN * 2,
        pack([]),
        pack({"type": "Halt"}),
        pack({"type": "Shutdown", "now": True}),
        pack({"type": "Allow", "model": "lenet", "pids": [0]}),
        pack({"type": "Allow", "model": "lenet", "pids": [2**31]}),
        pack({"type": "Allow", "model": "lenet", "pids": [1] * 4097}),
        pack({"type": "Load", "model": "a/b", "ticket": 1}),
        pack({"type": "Load", "model": "lenet", "ticket": 1, "engine": "other"}),
        protocol.encode(protocol.Attach("lenet")),
        b"\x91" * 60_000,
    ],
    ids=range(14),
)
def test_what_is_no_request_is_refused_by_name(daemon: Daemon, raw: bytes) -> None:
    answer = answer_to(daemon, raw)
    assert isinstance(from_wire(answer.code, answer.text), BadRequestError)


def test_a_message_over_the_limit_ends_its_connection(daemon: Daemon) -> None:
    with stream(daemon.folder.control) as sock:
        peer = Zmtp3(sock)
        with contextlib.suppress(ConnectionError):
            peer.say(b"1", bytes(2 * protocol.MAX_MESSAGE_NBYTES))
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""


@pytest.mark.parametrize("socket_name", ["control", "events"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 4096,
        bytes(4096),
        handshake()[:40],
        handshake()[:-3],
    ],
    ids=["silence", "http", "ones", "zeros", "half a greeting", "half a handshake"],
)
def test_bytes_that_are_no_zmtp_harm_nobody(daemon: Daemon, socket_name: str, raw: bytes) -> None:
    with stream(getattr(daemon.folder, socket_name)) as sock:
        sock.sendall(raw)
        assert daemon.client.status().pid == daemon.pid


def test_two_hundred_raw_connections_stop_nobody(daemon: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(stream(daemon.folder.control)).sendall(b"\xff")
        assert daemon.client.status().pid == daemon.pid
        with weightd.Client(daemon.runtime_dir) as another:
            assert another.current_pid() == os.getpid()


def private_nbytes(daemon: Daemon) -> int:
    (line,) = re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    return int(line) * 1024


def listen_and_go(daemon: Daemon) -> None:
    with stream(daemon.folder.events) as sock:
        sock.sendall(GREETING + ready(b"DEALER"))
        received = 0
        while received < len(GREETING + ready(b"ROUTER")):
            received += len(sock.recv(4096))
        sock.sendall(frames(os.urandom(60)))


def check_that_no_memory_is_taken(daemon: Daemon, visit: Callable[[], None]) -> None:
    """On a busy machine many are gone before the daemon notices, and malloc keeps what the most of
    them took; so a round of visits may take memory, but not each."""
    taken = []
    for _ in range(8):
        daemon.client.status()
        before = private_nbytes(daemon)
        visit()
        daemon.client.status()
        taken.append(private_nbytes(daemon) - before)
        if taken[-1] < 2 * 2**20:
            return
    pytest.fail(f"bytes taken by each round: {taken}")


def test_who_listened_to_events_and_went_takes_no_memory(daemon: Daemon) -> None:
    def visit() -> None:
        for _ in range(300):
            listen_and_go(daemon)

    check_that_no_memory_is_taken(daemon, visit)


@pytest.mark.parametrize("socket_name", ["control", "events"])
def test_peers_with_one_name_that_went_take_no_memory(daemon: Daemon, socket_name: str) -> None:
    def visit() -> None:
        with ExitStack() as stack:
            for _ in range(200):
                sock = stack.enter_context(stream(getattr(daemon.folder, socket_name)))
                Zmtp3(sock, Identity=b"name").say(b"1", b"")

    check_that_no_memory_is_taken(daemon, visit)


# --- files that are offered --------------------------------------------------------------


@contextmanager
def opened(path: str | Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("offer", "count"), [(OFFER, 0), (OFFER, 2), (protocol.Offer("file", has_folder=True), 1)]
)
def test_an_offer_with_another_number_of_descriptors_is_refused(
    daemon: Daemon, offer: protocol.Offer, count: int
) -> None:
    with raw_admin(daemon) as raw, opened(LENET) as fd:
        error = raw.refusal(offer, [fd] * count)
        assert isinstance(error, BadRequestError)
        assert isinstance(raw.ask(OFFER, [fd]), protocol.Offered)


@pytest.mark.parametrize("count", [3, 4, 5, 16, 250])
def test_an_offer_with_too_many_descriptors_ends_the_connection(daemon: Daemon, count: int) -> None:
    with raw_admin(daemon) as raw, opened(LENET) as fd:
        raw.say(OFFER, [fd] * count)
        raw.assert_hung_up()


@pytest.mark.parametrize("garbage", [b"\xc1", SHUTDOWN, protocol.encode(OFFER)[:-1]], ids=range(3))
def test_garbage_on_the_admin_socket_is_refused_and_its_descriptors_are_closed(
    daemon: Daemon, garbage: bytes
) -> None:
    with raw_admin(daemon) as raw, opened(LENET) as fd:
        assert isinstance(raw.refusal(garbage, [fd, fd]), BadRequestError)


@contextmanager
def odd_file(kind: str, folder: Path) -> Iterator[int]:
    """A descriptor that is not of a regular file open for reading."""
    ends = os.pipe()
    fds = {
        "a pipe": lambda: os.dup(ends[0]),
        "a folder": lambda: os.open(folder, os.O_RDONLY),
        "a name only": lambda: os.open(LENET, os.O_PATH),
        "write only": lambda: os.open(folder / "new", os.O_WRONLY | os.O_CREAT),
        "an empty file": lambda: os.memfd_create("empty"),
        "endless zeros": lambda: os.open("/dev/zero", os.O_RDONLY),
        "the kernel's": lambda: os.open("/proc/self/maps", os.O_RDONLY),
        "an eventfd": lambda: os.eventfd(0),
        "a process": lambda: os.pidfd_open(os.getpid()),
    }
    fd = fds[kind]()
    try:
        yield fd
    finally:
        for each in (fd, *ends):
            os.close(each)


@pytest.mark.parametrize(
    "kind",
    [
        "a pipe",
        "a folder",
        "a name only",
        "write only",
        "an empty file",
        "endless zeros",
        "the kernel's",
        "an eventfd",
        "a process",
    ],
)
def test_a_descriptor_that_is_no_model_file_is_refused_typed(
    daemon: Daemon, tmp_path: Path, kind: str
) -> None:
    with raw_admin(daemon) as raw, odd_file(kind, tmp_path) as fd:
        ticket = raw.ask(OFFER, [fd]).ticket
        answer = control(daemon, protocol.Load("odd", ticket))
        assert answer.code in ("BadFileError", "UnsealedSegmentError"), answer


def test_a_ticket_is_good_once_and_while_its_connection_lasts(daemon: Daemon) -> None:
    def refusal(ticket: int) -> str:
        answer = control(daemon, protocol.Load("lenet", ticket, dry_run=True))
        return str(answer.code)

    with raw_admin(daemon) as raw, opened(LENET) as fd:
        ticket = raw.ask(OFFER, [fd]).ticket
        answer = control(daemon, protocol.Load("lenet", ticket, dry_run=True))
        assert isinstance(answer, protocol.Live)
        assert refusal(ticket) == "BadRequestError"
        assert refusal(ticket ^ 1) == "BadRequestError"
        unused = raw.ask(OFFER, [fd]).ticket
    wait_until(lambda: refusal(unused) == "BadRequestError")  # once the daemon has seen the end


def test_a_connection_has_a_bounded_number_of_offers(daemon: Daemon) -> None:
    with raw_admin(daemon) as raw, opened(LENET) as fd:
        for _ in range(4):
            assert isinstance(raw.ask(OFFER, [fd]), protocol.Offered)
        assert isinstance(raw.refusal(OFFER, [fd]), LimitError)


def test_the_admin_connection_over_the_limit_hears_why_and_the_next_finds_room(
    daemon: Daemon,
) -> None:
    with ExitStack() as stack, opened(LENET) as fd:
        many = [stack.enter_context(raw_admin(daemon)) for _ in range(64)]
        assert isinstance(many[-1].ask(OFFER, [fd]), protocol.Offered)
        with pytest.raises(LimitError, match="64 connections"):
            daemon.client.load("lenet", LENET)
        many[0].close()
        wait_until(lambda: can_load(daemon))


def can_load(daemon: Daemon) -> bool:
    try:
        return daemon.client.load("lenet", LENET, dry_run=True) == 1
    except LimitError:
        return False
