"""Peers that speak by hand: messages and bytes as an attacker sends them."""

import array
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemons import Daemon, Worker
from tests.helpers import wait_until
from weightd.errors import BrokenPeerError, WeightdError, from_wire
from weightd.ipc import protocol
from weightd.ipc.channel import ControlClient

TIMEOUT_S = 5.0


class Raw:
    """A SEQPACKET connection without any of weightd's own care."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(os.fspath(path))

    def say(self, what: protocol.Message | bytes, fds: Sequence[int] = ()) -> None:
        raw = what if isinstance(what, bytes) else protocol.encode(what)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([raw], rights)

    def hear(self) -> tuple[Any, list[int]]:
        """The daemon's next message, and the descriptors with it (the caller's to close);
        BrokenPeerError when it hung up."""
        fds = array.array("i")
        try:
            raw, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(16 * fds.itemsize))
        except ConnectionError as error:
            raise BrokenPeerError("hung up") from error
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data)
        if not raw:
            raise BrokenPeerError("hung up")
        return protocol.decode(raw, protocol.AttachReply | protocol.Offered), list(fds)

    def ask(self, what: protocol.Message | bytes, fds: Sequence[int] = ()) -> Any:
        """Say it; the answer without its descriptors, which are closed."""
        self.say(what, fds)
        message, got = self.hear()
        for fd in got:
            os.close(fd)
        return message

    def refusal(self, what: protocol.Message | bytes, fds: Sequence[int] = ()) -> WeightdError:
        """Say it; the error that the daemon answers with."""
        message = self.ask(what, fds)
        assert isinstance(message, protocol.Failed), message
        return from_wire(message.code, message.text)

    def assert_hung_up(self) -> None:
        """Wait for the daemon to close the connection; what it says before is passed over."""
        with contextlib.suppress(BrokenPeerError):
            while True:
                for fd in self.hear()[1]:
                    os.close(fd)

    def close(self) -> None:
        self.sock.close()


@contextmanager
def raw_worker(daemon: Daemon) -> Iterator[Raw]:
    """This process on the attach socket, by hand."""
    raw = Raw(daemon.folder.attach)
    try:
        yield raw
    finally:
        raw.close()


@contextmanager
def raw_admin(daemon: Daemon) -> Iterator[Raw]:
    """This process on the admin socket, by hand."""
    raw = Raw(daemon.folder.admin)
    try:
        yield raw
    finally:
        raw.close()


def descriptors_of(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


@contextmanager
def daemon_unharmed(daemon: Daemon) -> Iterator[None]:
    """Afterwards the daemon is the same process, serves, and has no descriptor more than before."""
    daemon.client.status()  # the client's own connection is there from now on
    before = descriptors_of(daemon)
    yield
    assert daemon.client.status().pid == daemon.pid
    wait_until(lambda: descriptors_of(daemon) <= before)


def refused(worker: Worker, do: str, **arguments: Any) -> WeightdError:
    """Have a worker do it; the error that it meets."""
    answer = worker.ask(do, **arguments)
    assert "error" in answer, answer
    return from_wire(*answer["error"])


def control(daemon: Daemon, message: protocol.Message) -> Any:
    """One request on the control plane, its final answer; refusals as they come."""
    with ControlClient(daemon.folder.control, daemon.folder.events) as client:
        for raw in client.request(protocol.encode(message), timeout_s=20):
            reply = protocol.decode(raw, protocol.ControlReply)
            if not isinstance(reply, protocol.Progress):
                return reply
    raise BrokenPeerError("no answer")
