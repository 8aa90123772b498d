"""The attach socket against peers that lie, flood, stall, die or say nothing: each harms itself
alone. Everything here runs with both ways of reading, in the loop and in threads."""

import array
import contextlib
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import weightd
from tests.daemons import EARLY, WORKERS, Daemon, running_daemon
from tests.helpers import wait_until
from tests.raw import Raw, daemon_unharmed, descriptors_of, raw_worker
from weightd.errors import BadRequestError, BrokenPeerError, UnknownVersionError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.protocol import pack

ATTACH = protocol.Attach("lenet")
OLD_KERNEL = (sys.executable, str(WORKERS / "old_kernel.py"))
BOTH_WAYS = pytest.mark.parametrize("in_threads", [False, True], ids=["in the loop", "in threads"])
PROMPT_S = 3.0  # on a busy machine, against deadlines of 10 s and a linger of 30 s

NO_MESSAGES = {
    "garbage": b"\xc1 no msgpack",
    "a message without its end": protocol.encode(ATTACH)[:-3],
    "two messages in one": protocol.encode(ATTACH) * 2,
    "a list": pack(["Attach", "lenet"]),
    "no tag": pack({}),
    "an unknown tag": pack({"type": "Format", "model": "lenet"}),
    "a request of the control plane": protocol.encode(protocol.Allow("lenet", (1,))),
    "a reply": protocol.encode(protocol.Notice(1)),
    "an extra field": pack({"type": "Attach", "model": "lenet", "uid": 0}),
    "a missing field": pack({"type": "Attach"}),
    "a field of another type": pack({"type": "Attach", "model": 7}),
    "a truth for a number": pack({"type": "Attach", "model": "lenet", "handle": True}),
    "a negative handle": pack({"type": "Attach", "model": "lenet", "handle": -1}),
    "a path for a name": pack({"type": "Attach", "model": "../lenet"}),
    "a name without end": pack({"type": "Attach", "model": "l" * 129}),
    "keys that are no text": pack({1: 2}),
    "lists in lists": b"\x91" * 60_000,
    "a list of four billion": b"\xdd\xff\xff\xff\xff",
    "an extension": b"\xc9\x00\x00\x00\x01\x05x",
    "60 KB of bytes": pack(b"x" * 60_000),
    "another protocol": protocol.encode(protocol.Attach("lenet", protocol=99)),
    "Pull before Attach": protocol.encode(protocol.Pull()),
    "Fetch before Attach": protocol.encode(protocol.Fetch(1, 0)),
    "Switched before Attach": protocol.encode(protocol.Switched(1, 0.0)),
    "NotSwitched before Attach": protocol.encode(protocol.NotSwitched(1, "no")),
    "Released before Attach": protocol.encode(protocol.Released(1)),
}
LIES = {
    "Switched to what it does not hold": protocol.Switched(99, 0.0),
    "NotSwitched to what it does not hold": protocol.NotSwitched(99, "no"),
    "Released what it does not hold": protocol.Released(99),
    "Fetch of what nobody holds": protocol.Fetch(99, 0),
    "Fetch of what only the daemon holds": protocol.Fetch(1, 0),
}
BROKEN = {
    "Attach again": ATTACH,
    "Fetch of what is not there": protocol.Fetch(2, 15),
    "a pause before time": protocol.Switched(1, -1.0),
    "a pause for ever": protocol.Switched(1, float("inf")),
    "a pause that is no number": protocol.Switched(1, float("nan")),
    "a reason without end": protocol.NotSwitched(1, "x" * 5000),
}


@pytest.fixture(scope="module", params=[False, True], ids=["in the loop", "in threads"])
def shared(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon with lenet, which this process may attach."""
    with running_daemon(read_in_threads=request.param) as daemon:
        daemon.load_lenet()
        daemon.client.publish("lenet", EARLY)
        daemon.client.allow("lenet", os.getpid())
        yield daemon


@pytest.fixture
def lenet(shared: Daemon) -> Iterator[Daemon]:
    """That daemon, which must be as it was when the test has ended."""
    with daemon_unharmed(shared):
        yield shared
        wait_until(lambda: shared.client.status().workers == ())


def assert_serves(daemon: Daemon) -> None:
    """An honest worker attaches, and it does not take long."""
    begin_s = time.monotonic()
    with weightd.attach("lenet", runtime_dir=daemon.runtime_dir) as model:
        assert model.version >= 1
    assert time.monotonic() - begin_s < PROMPT_S


def queued_nbytes(raw: Raw) -> int:
    """What the daemon has sent and this peer has not read."""
    buffer = array.array("i", [0])
    fcntl.ioctl(raw.sock, termios.FIONREAD, buffer)
    return buffer[0]


def granted_nbytes(daemon: Daemon) -> int:
    """The size of one answer that brings a descriptor."""
    with raw_worker(daemon) as raw:
        raw.say(ATTACH)
        wait_until(lambda: queued_nbytes(raw) > 0)
        return queued_nbytes(raw)


# --- frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("raw_bytes", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_here_is_refused_and_ends_the_connection(
    lenet: Daemon, raw_bytes: bytes
) -> None:
    with raw_worker(lenet) as raw:
        assert isinstance(raw.refusal(raw_bytes), BadRequestError)
        raw.assert_hung_up()


def test_an_empty_message_ends_the_connection(lenet: Daemon) -> None:
    with raw_worker(lenet) as raw:
        raw.say(b"")
        raw.assert_hung_up()


@pytest.mark.root
def test_a_message_of_megabytes_ends_the_connection(lenet: Daemon) -> None:
    with raw_worker(lenet) as raw:
        raw.sock.setsockopt(socket.SOL_SOCKET, 32, 8 * 2**20)  # SO_SNDBUFFORCE
        raw.say(pack(b"x" * 4 * 2**20))
        raw.assert_hung_up()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_about_a_version_is_refused_and_the_lease_goes_on(
    lenet: Daemon, lie: protocol.Message
) -> None:
    with raw_worker(lenet) as raw:
        assert isinstance(raw.ask(ATTACH), protocol.Granted)
        assert isinstance(raw.refusal(lie), UnknownVersionError)
        assert isinstance(raw.ask(protocol.Pull()), protocol.Granted)
        assert len(lenet.client.status().workers) == 1


@pytest.mark.parametrize("request_", BROKEN.values(), ids=BROKEN)
def test_a_request_that_no_worker_makes_ends_its_lease(
    lenet: Daemon, request_: protocol.Message
) -> None:
    with raw_worker(lenet) as raw:
        assert isinstance(raw.ask(ATTACH), protocol.Granted)
        assert isinstance(raw.refusal(request_), BadRequestError)
        raw.assert_hung_up()
        wait_until(lambda: lenet.client.status().workers == ())


@pytest.mark.parametrize(
    "steps",
    [(), (ATTACH,), (ATTACH, protocol.Pull()), (protocol.CurrentPid(), ATTACH, ATTACH)],
    ids=len,
)
def test_a_peer_that_goes_at_any_step_leaves_nothing(
    lenet: Daemon, steps: tuple[protocol.Message, ...]
) -> None:
    with raw_worker(lenet) as raw:
        for step in steps:
            raw.say(step)  # and reads no answer
    with raw_worker(lenet) as raw:
        for step in steps:
            raw.ask(step)
    assert_serves(lenet)


# --- descriptors from peers --------------------------------------------------------------


def test_the_kernel_refuses_descriptors_at_their_sender(lenet: Daemon) -> None:
    with raw_worker(lenet) as raw:
        with pytest.raises(PermissionError):
            raw.say(protocol.CurrentPid(), [0])
        assert isinstance(raw.ask(protocol.CurrentPid()), protocol.YourPid)


@pytest.fixture
def old_kernel() -> Iterator[Daemon]:
    """A daemon that cannot have the kernel refuse descriptors."""
    with running_daemon(prefix=OLD_KERNEL) as daemon, daemon_unharmed(daemon):
        daemon.load_lenet()
        daemon.client.allow("lenet", os.getpid())
        yield daemon
        daemon.client.unload("lenet")


def test_on_an_older_kernel_descriptors_from_peers_are_closed_and_end_the_connection(
    old_kernel: Daemon,
) -> None:
    assert "workers read in threads" in old_kernel.log()
    for count in (1, 2, 250):
        with raw_worker(old_kernel) as raw:
            raw.say(ATTACH, [0] * count)
            raw.assert_hung_up()
    assert_serves(old_kernel)


def test_on_an_older_kernel_a_descriptor_that_lingers_stalls_its_sender_alone(
    old_kernel: Daemon,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        raw_worker(old_kernel) as raw,
        socket.create_connection(listener.getsockname()) as lingering,
        listener.accept()[0],  # which never reads
    ):
        lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
        lingering.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while lingering.send(b"x" * 2**20):
                pass
        os.kill(old_kernel.pid, signal.SIGSTOP)
        raw.say(ATTACH, [lingering.fileno()])
        os.close(lingering.detach())  # the last one is on its way to the daemon
        os.kill(old_kernel.pid, signal.SIGCONT)
        assert_serves(old_kernel)
        assert old_kernel.client.current_pid() == os.getpid()


# --- floods, and peers that do not read --------------------------------------------------


@BOTH_WAYS
def test_a_peer_that_says_nothing_is_closed_and_a_lease_is_not(in_threads: bool) -> None:
    with running_daemon(read_in_threads=in_threads, hello_deadline_s=0.2) as daemon:
        daemon.load_lenet()
        with daemon.attach_here() as model, raw_worker(daemon) as first, raw_worker(daemon) as raw:
            assert isinstance(raw.ask(protocol.CurrentPid()), protocol.YourPid)
            first.assert_hung_up()
            raw.assert_hung_up()
            assert model.is_connected
            assert len(daemon.client.status().workers) == 1


def test_a_thousand_silent_connections_stop_nobody(lenet: Daemon) -> None:
    before = descriptors_of(lenet)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1000):
                stack.callback(Raw(lenet.folder.attach).close)
            assert_serves(lenet)
            wait_until(lambda: descriptors_of(lenet) < before + 3 * 300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.root
def test_strangers_who_take_descriptors_leave_some_for_the_control_plane(lenet: Daemon) -> None:
    """libzmq aborts a process in which it finds none for a connection."""
    with ExitStack() as stack:
        room = limited(lenet, 60, stack)
        for _ in range(100):
            stack.callback(Raw(lenet.folder.attach).close)
        wait_until(lambda: descriptors_of(lenet) > room - 40)
        others = [stack.enter_context(weightd.Client(lenet.runtime_dir)) for _ in range(5)]
        assert [other.status().pid for other in others] == [lenet.pid] * 5


def test_a_daemon_out_of_descriptors_takes_them_from_the_silent(lenet: Daemon) -> None:
    with ExitStack() as stack:
        limited(lenet, 20, stack)
        for _ in range(100):
            stack.callback(Raw(lenet.folder.attach).close)
        wait_until(lambda: can_attach(lenet))
        assert lenet.client.status().pid == lenet.pid


def limited(daemon: Daemon, more: int, stack: ExitStack) -> int:
    """So many descriptors more than it has are all that it may have, for as long as the stack
    lives; returns how many that is."""
    most = descriptors_of(daemon) + more
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (most, limits[1]))
    stack.callback(resource.prlimit, daemon.pid, resource.RLIMIT_NOFILE, limits)
    return most


def can_attach(daemon: Daemon) -> bool:
    try:
        assert_serves(daemon)
    except BrokenPeerError:
        return False
    return True


def test_a_peer_that_pulls_and_never_reads_has_one_descriptor_on_its_way(lenet: Daemon) -> None:
    one = granted_nbytes(lenet)
    with raw_worker(lenet) as raw:
        raw.say(ATTACH)
        raw.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(300):
                raw.say(protocol.Pull())
        wait_until(lambda: queued_nbytes(raw) > 0)
        for _ in range(3):
            assert_serves(lenet)
            assert queued_nbytes(raw) == one
        raw.sock.settimeout(5)
        for fd in raw.hear()[1] + raw.hear()[1]:  # once it reads it is served again
            os.close(fd)


def test_notices_that_are_not_read_become_one(lenet: Daemon) -> None:
    with raw_worker(lenet) as raw:
        raw.ask(ATTACH)
        first = protocol.Notice(lenet.client.rollback("lenet"))
        for _ in range(20):
            live = lenet.client.rollback("lenet")
        assert queued_nbytes(raw) == len(protocol.encode(first))
        assert raw.ask(protocol.Pull()) == first
        granted, fds = raw.hear()
        os.close(*fds)
        assert granted.version == live


def test_a_peer_that_floods_is_served_in_turn_with_the_others(lenet: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(32):
            raw = stack.enter_context(raw_worker(lenet))
            raw.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                for _ in range(300):
                    raw.say(protocol.CurrentPid())
        assert_serves(lenet)


def test_a_stranger_meets_only_typed_refusals(lenet: Daemon) -> None:
    with raw_worker(lenet) as raw:
        error = raw.refusal(protocol.Attach("no-such-model"))
        assert isinstance(error, WeightdError)
        assert isinstance(raw.ask(ATTACH), protocol.Granted)
