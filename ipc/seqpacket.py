"""SEQPACKET sockets: whole messages, with descriptors beside them. Knows no message's meaning.

Nothing here waits unless a timeout was given: a peer that does not read must not stop anybody. A
descriptor that comes where none is expected is closed at once and its sender is a broken peer.
"""

import array
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from weightd.errors import (
    BrokenPeerError,
    DaemonTimeoutError,
    LimitError,
    NoAccessError,
    NoDaemonError,
    SettingsError,
)
from weightd.ipc import linux
from weightd.ipc.protocol import MAX_MESSAGE_NBYTES
from weightd.ipc.runtime import RuntimeFolder

_INT_NBYTES = struct.calcsize("i")
_TRUNCATED = int(socket.MSG_TRUNC)  # numbers: the arithmetic of enum members is slow
_LOST_DESCRIPTORS = int(socket.MSG_CTRUNC)
_BACKLOG = 4096


class Received(msgspec.Struct, frozen=True):
    """One message. The receiver owns the descriptors; sender_pidfd is None where the kernel
    does not stamp messages."""

    raw: bytes
    fds: tuple[int, ...] = ()
    sender_pidfd: int | None = None
    sender_is_gone: bool = False

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        if self.sender_pidfd is not None:
            os.close(self.sender_pidfd)


class Connection:
    """One end of a connected socket. Owns it."""

    def __init__(self, sock: socket.socket, *, max_fds: int) -> None:
        self.sock = sock
        self._max_fds = max_fds

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, raw: bytes, fds: Sequence[int] = ()) -> bool:
        """Send one message; False when the peer's buffer is full. BrokenPeerError when it is gone,
        LimitError when too many descriptors of this user are on their way unread."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([raw], rights, socket.MSG_NOSIGNAL)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise LimitError(
                    "too many descriptors are on their way to processes that do not read them; "
                    "try again"
                ) from error
            raise BrokenPeerError(f"the other process is gone: {error.strerror}") from error
        return True

    def receive(self) -> Received:
        """The next message. BlockingIOError or TimeoutError when there is none (yet);
        BrokenPeerError at the end, or when the message or its descriptors break the rules."""
        space = socket.CMSG_SPACE(self._max_fds * _INT_NBYTES) + socket.CMSG_SPACE(_INT_NBYTES)
        try:
            raw, ancillary, flags, _ = self._recvmsg(space)
        except (BlockingIOError, TimeoutError):
            raise
        except OSError as error:
            raise BrokenPeerError(f"the other process is gone: {error.strerror}") from error
        received = _unwrap(raw, ancillary)
        fault = self._fault_of(received, flags)
        if fault is not None:
            received.close()
            raise BrokenPeerError(fault)
        return received

    def _recvmsg(self, space: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        try:
            return self.sock.recvmsg(MAX_MESSAGE_NBYTES, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # it closed with ours unread; what it said before comes now
            return self.sock.recvmsg(MAX_MESSAGE_NBYTES, space, socket.MSG_CMSG_CLOEXEC)

    def _fault_of(self, received: Received, flags: int) -> str | None:
        if flags & _TRUNCATED:
            return f"the other process sent a message of more than {MAX_MESSAGE_NBYTES} bytes"
        if flags & _LOST_DESCRIPTORS or len(received.fds) > self._max_fds:
            return "the other process sent descriptors that nobody asked for"
        if received.sender_is_gone:
            return "the process that sent this is gone"
        if not received.raw:
            return "the other process closed the connection"
        return None

    def unread_nbytes(self) -> int:
        """How much of what was sent the peer has not read, as the kernel counts it."""
        buffer = array.array("i", [0])
        fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, buffer)
        return buffer[0]

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Listener:
    """A socket in the file system that accepts connections. Owns it and its name, unless it was
    `given` by a service manager, whose the name is then, with its mode. gid: of its group, None for
    the process's own."""

    def __init__(
        self,
        path: Path,
        *,
        mode: int,
        max_fds: int,
        gid: int | None = None,
        given: socket.socket | None = None,
    ) -> None:
        self._name = path if given is None else None
        self._max_fds = max_fds
        self.sock = given or _named(path)
        if self.sock.type != socket.SOCK_SEQPACKET:
            raise SettingsError(f"the socket that was given for {path} is not SOCK_SEQPACKET")
        self.refuses_descriptors = max_fds == 0 and linux.refuse_descriptors(self.sock)
        self.stamps_senders = linux.stamp_senders(self.sock)
        if given is None:
            if gid is not None:
                give_to_group(path, gid)
            path.chmod(mode)
            self.sock.listen(_BACKLOG)
        self.sock.setblocking(False)

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self) -> Connection | None:
        """The next connection, None when nobody waits. OSError when descriptors run out."""
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        if self.refuses_descriptors:
            linux.refuse_descriptors(sock)
        linux.stamp_senders(sock)
        sock.setblocking(False)
        return Connection(sock, max_fds=self._max_fds)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.sock.close()
            if self._name is not None:
                self._name.unlink(missing_ok=True)


def _named(path: Path) -> socket.socket:
    """A socket with this name, which nobody but this user may use yet."""
    path.unlink(missing_ok=True)  # of a daemon that was killed: the instance lock is ours
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.fchmod(sock.fileno(), 0o600)  # of its name, too; a umask is of the whole process
    sock.bind(os.fspath(path))
    return sock


def give_to_group(path: Path, gid: int) -> None:
    """Make a socket a group's. SettingsError where this process may not: it is not a member."""
    try:
        os.chown(path, -1, gid)
    except OSError as error:
        raise SettingsError(
            f"cannot give {path} to group {gid}: {error.strerror}; the daemon's user must be a "
            "member of control_group"
        ) from error


def connect(path: Path, *, max_fds: int, timeout_s: float) -> Connection:
    """Connect to a daemon's socket; every later send and receive waits at most `timeout_s`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Not by settimeout: a full queue would then be EAGAIN at once instead of a wait.
    whole_s = int(timeout_s)
    limit = struct.pack("@ll", whole_s, int((timeout_s - whole_s) * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    try:
        sock.connect(os.fspath(path))
    except BlockingIOError as error:
        sock.close()
        raise DaemonTimeoutError(f"the daemon at {path} did not accept in {timeout_s} s") from error
    except OSError as error:
        sock.close()
        raise no_daemon(path, error) from error
    sock.settimeout(timeout_s)
    return Connection(sock, max_fds=max_fds)


def no_daemon(path: Path, error: OSError) -> NoDaemonError:
    """The error that says why a socket in the runtime folder cannot be reached, and what to do."""
    if isinstance(error, PermissionError):
        return NoAccessError(
            f"{path} belongs to another user and lets this one not in; workers of other users need "
            "a daemon with attach_public = true, control requests need its user or root"
        )
    if RuntimeFolder(path.parent).names_keeper():
        return NoDaemonError(
            f"no daemon answers at {path} ({error.strerror}); a keeper starts it again and again: "
            "see why in the log of `weightd keeper`"
        )
    return NoDaemonError(
        f"no daemon answers at {path} ({error.strerror}); start one with "
        f"`weightd keeper --runtime-dir {path.parent}`"
    )


def _unwrap(raw: bytes, ancillary: list[tuple[int, int, bytes]]) -> Received:
    fds: list[int] = []
    sender: int | None = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array.array("i", data[: len(data) - len(data) % _INT_NBYTES])
        elif level == socket.SOL_SOCKET and kind == linux.SCM_PIDFD:
            (sender,) = struct.unpack("i", data[:_INT_NBYTES])
    if sender is not None and sender < 0:  # an error number: the kernel had no process to name
        return Received(raw, tuple(fds), None, sender_is_gone=True)
    return Received(raw, tuple(fds), sender)
