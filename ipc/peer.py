"""Who is at the other end: identity as the kernel tells it, never as the peer does.

A PID is a number that is used again; a process is not. Its key is the inode of its pidfd where
the kernel has pidfs (Linux 6.9), else (pid, start time), which a living pidfd keeps from being
reused. Which of the two is in force is decided once, by a self-test, and logged.
"""

import errno
import os
import select
import socket
import struct
from pathlib import Path
from typing import Self

import msgspec

from weightd.errors import NotAllowedError, UnsupportedKernelError
from weightd.ipc import linux

NOBODY_UID = 65534  # what a uid is called that has no name in the daemon's user namespace


class Key(msgspec.Struct, frozen=True):
    """One process, for as long as the machine is up."""

    kind: str
    pid: int
    number: int


class Process:
    """One process, held by its pidfd. The owner closes it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        try:
            self.key = _key_of(pid, pidfd)
        except BaseException:
            os.close(pidfd)
            raise

    @classmethod
    def of_pid(cls, pid: int) -> Self:
        """The process that has this PID now; NotAllowedError when there is none."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except (OSError, OverflowError) as error:
            raise NotAllowedError(
                f"there is no process {pid}: it ended, or the number is of another PID namespace; "
                "a worker learns its number with weightd.current_pid(), or in MindSpore Lite's "
                'API with Model().get_model_info("current_pid")'
            ) from error

    def is_alive(self) -> bool:
        return is_alive(self.pidfd)

    def duplicate(self) -> "Process":
        """The same process, for another owner."""
        return Process(self.pid, os.dup(self.pidfd))

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Peer(msgspec.Struct, frozen=True):
    """The process that connected a Unix socket: kernel's pid, uid, gid, and the held process."""

    pid: int
    uid: int
    gid: int
    process: Process

    @classmethod
    def of(cls, sock: socket.socket) -> Self:
        """Identify the peer of a connected socket; NotAllowedError when the kernel names none."""
        pid, uid, gid = credentials(sock)
        check_credentials(pid, uid)
        return cls(pid, uid, gid, Process(pid, _pidfd_of(sock, pid)))


def is_alive(pidfd: int) -> bool:
    """Whether the process has not ended (a zombie has)."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return not poller.poll(0)


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """pid, uid, gid of the peer at the time of connect(), as this process's namespaces see them."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", raw)
    return pid, uid, gid


def check_credentials(pid: int, uid: int) -> None:
    """Refuse a peer that the kernel cannot name here."""
    if pid <= 0:
        raise NotAllowedError(
            "the kernel names no process at the other end: it lives in a PID namespace that this "
            "daemon does not see; run the daemon in the host's (or the outer) PID namespace"
        )
    if uid == NOBODY_UID:
        raise NotAllowedError(
            f"uid {NOBODY_UID} stands for every user that this daemon's user namespace does not "
            "know: it is nobody, and is refused everywhere"
        )


def sent_by(process: Process, sender_pidfd: int) -> bool:
    """Whether the pidfd that came with a message is of this process."""
    if process.key.kind == "pidfs":
        return os.fstat(sender_pidfd).st_ino == process.key.number
    info = Path(f"/proc/self/fdinfo/{sender_pidfd}").read_text()
    return f"Pid:\t{process.pid}\n" in info and process.is_alive()


def identity_kind() -> str:
    """'pidfs' or 'pid+start', after a self-test; UnsupportedKernelError when neither tells two
    living processes apart."""
    own = Process.of_pid(os.getpid())
    parent = Process.of_pid(os.getppid()) if os.getppid() > 0 else None
    try:
        if parent is not None and parent.key == own.key:
            raise UnsupportedKernelError(
                "two living processes have one identity on this kernel: nobody could be told apart"
            )
        return own.key.kind
    finally:
        own.close()
        if parent is not None:
            parent.close()


def _pidfd_of(sock: socket.socket, pid: int) -> int:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, linux.SO_PEERPIDFD, struct.calcsize("i"))
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            raise NotAllowedError(f"process {pid} ended before it was identified") from error
        if error.errno != errno.ENOPROTOOPT:
            raise
        return _pidfd_before_6_5(pid)
    (pidfd,) = struct.unpack("i", raw)
    return int(pidfd)  # close-on-exec: the kernel makes all pidfds so


def _pidfd_before_6_5(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise NotAllowedError(f"process {pid} ended before it was identified") from error


def _key_of(pid: int, pidfd: int) -> Key:
    if linux.has_pidfs():
        return Key("pidfs", pid, os.fstat(pidfd).st_ino)
    try:
        started = linux.start_ticks(pid)
    except (OSError, ValueError, IndexError) as error:
        raise NotAllowedError(f"process {pid} ended before it was identified") from error
    if not is_alive(pidfd):  # only a living pidfd proves that the number is still its own
        raise NotAllowedError(f"process {pid} ended before it was identified")
    return Key("pid+start", pid, started)
