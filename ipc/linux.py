"""What Python's standard library does not reach of Linux. The only file that imports ctypes."""

import ctypes
import os
import socket
from pathlib import Path

# include/uapi/asm-generic/socket.h, linux/socket.h
SO_PASSPIDFD = 76  # Linux 6.5: each received message carries a pidfd of its sender
SO_PEERPIDFD = 77  # Linux 6.5: the pidfd of the process that connected
SO_PASSRIGHTS = 83  # Linux 6.16: 0 = a peer's SCM_RIGHTS is refused at its own sendmsg
SCM_PIDFD = 4
MFD_NOEXEC_SEAL = 8  # Linux 6.3

_PIDFS_MAGIC = 0x50494446  # "PIDF", linux/magic.h, Linux 6.9
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def hide_from_same_user() -> None:
    """Make /proc/PID/mem, /proc/PID/fd, ptrace and pidfd_getfd of this process fail for others of
    its uid. Undone by execve. It comes too late for whoever opened /proc/PID/mem before."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def is_on_pidfs(pidfd: int) -> bool:
    """Whether the inode of `pidfd` names one process for ever (Linux 6.9 and later).

    Before pidfs all pidfds share one anonymous inode: comparing them would let anybody in.
    """
    buffer = (ctypes.c_long * 32)()  # struct statfs: f_type is the first word
    _check(_libc.fstatfs(pidfd, ctypes.byref(buffer)), "fstatfs")
    return int(buffer[0]) == _PIDFS_MAGIC


def open_beneath(folder_fd: int, path: str) -> int:
    """Open `path` for reading, below the folder and through no symbolic link. Raises OSError:
    EXDEV when the path leaves the folder, ELOOP when it meets a link. The caller owns the fd."""
    how = _OpenHow(
        flags=os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK,
        mode=0,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(folder_fd),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        ),
        path,
    )


def refuse_descriptors(sock: socket.socket) -> bool:
    """Turn SCM_RIGHTS off on a Unix socket; for a listener, on all it accepts. False when the
    kernel is older than 6.16 and cannot: an unread descriptor may then stall whoever receives."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def stamp_senders(sock: socket.socket) -> bool:
    """Have each received message carry a pidfd of its sender. False when the kernel cannot."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    except OSError:
        return False
    return True


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of /proc/PID/stat)."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def private_memory() -> dict[str, int]:
    """Bytes of this process by kind, of /proc/self/smaps_rollup: Pss, Private_Dirty, Rss, …"""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in (line.split() for line in lines)}
