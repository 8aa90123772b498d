"""What Python's standard library does not reach of Linux. The only file that imports ctypes."""

import ctypes
import errno
import os
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# include/uapi/asm-generic/socket.h, linux/socket.h
SO_PEERGROUPS = 59  # Linux 4.13: all groups of the process that connected
SO_PASSPIDFD = 76  # Linux 6.5: each received message carries a pidfd of its sender
SO_PEERPIDFD = 77  # Linux 6.5: the pidfd of the process that connected
SO_PASSRIGHTS = 83  # Linux 6.16: 0 = a peer's SCM_RIGHTS is refused at its own sendmsg
SCM_PIDFD = 4
MFD_NOEXEC_SEAL = 8  # Linux 6.3

_GROUPS_AT_FIRST = 256

_PIDFS_MAGIC = 0x50494446  # "PIDF", linux/magic.h, Linux 6.9
_TMPFS_MAGIC = 0x01021994
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_MREMAP_MAYMOVE = 1
_MREMAP_FIXED = 2
_MREMAP_DONTUNMAP = 4
_MAP_PRIVATE = 0x02
_MAP_ANONYMOUS = 0x20
_MAP_NORESERVE = 0x4000
_TABLE_NBYTES = 2 * 2**20  # what a page table of 4 KiB pages maps, on x86-64 and arm64
_PROT_READ = 1
_MADV_POPULATE_READ = 22  # Linux 5.14
_MADV_POPULATE_WRITE = 23
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mmap.restype = ctypes.c_void_p


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


@cache
def has_pidfs() -> bool:
    """Whether the inode of a pidfd names one process for ever (Linux 6.9 and later).

    Before pidfs all pidfds share one anonymous inode: comparing them would let anybody in.
    """
    pidfd = os.pidfd_open(os.getpid())
    try:
        return _file_system(pidfd) == _PIDFS_MAGIC
    finally:
        os.close(pidfd)


def is_tmpfs(folder: str) -> bool:
    """Whether what is written in a folder lies in memory, up to the file system's own limit."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _file_system(fd) == _TMPFS_MAGIC
    finally:
        os.close(fd)


def _file_system(fd: int) -> int:
    buffer = (ctypes.c_long * 32)()  # struct statfs: f_type is the first word
    _check(_libc.fstatfs(fd, ctypes.byref(buffer)), "fstatfs")
    return int(buffer[0])


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


def peer_groups(sock: socket.socket) -> frozenset[int]:
    """The supplementary groups that the process at the other end had when it connected; none where
    the kernel does not tell. (Not by socket.getsockopt(), which ends at 256 of them.)"""
    size = ctypes.c_uint32(_GROUPS_AT_FIRST * ctypes.sizeof(ctypes.c_uint32))
    while True:
        room = size.value // ctypes.sizeof(ctypes.c_uint32)
        groups = (ctypes.c_uint32 * max(room, 1))()
        failed = _libc.getsockopt(
            sock.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, groups, ctypes.byref(size)
        )
        count = size.value // ctypes.sizeof(ctypes.c_uint32)
        if not failed:
            return frozenset(groups[:count])
        if ctypes.get_errno() != errno.ERANGE or count <= room:  # else it says how many there are
            return frozenset()


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of /proc/PID/stat)."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def duplicate_mapping(address: int, nbytes: int, like: int) -> int:
    """Map pages of a shared mapping a second time, read-only, and return where. Addresses and sizes
    are whole pages. The new address has the remainder of `like` by what one page table maps, so
    that move_mapping() can move whole tables there. The caller owns the new mapping."""
    copy = reserve(nbytes, like)
    try:
        # A size of 0 asks for a copy of the mapping, not of its bytes: mremap(2).
        _remap(address, 0, nbytes, _MREMAP_FIXED, copy)
        _check(_libc.mprotect(*_range(copy, nbytes), _PROT_READ), "mprotect")
    except OSError:
        unmap(copy, nbytes)
        raise
    return copy


def reserve(nbytes: int, like: int) -> int:
    """Addresses at which nothing is mapped and nobody else will map; see duplicate_mapping()."""
    slack = _TABLE_NBYTES
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    start = _libc.mmap(None, ctypes.c_size_t(nbytes + slack), 0, flags, -1, ctypes.c_long(0))
    if start is None or start == _MAP_FAILED:
        _check(-1, "mmap")
    before = (like - start) % _TABLE_NBYTES
    for address, size in ((start, before), (start + before + nbytes, slack - before)):
        if size:
            unmap(address, size)
    return int(start + before)


def move_mapping(address: int, nbytes: int, to: int) -> None:
    """Move a mapping to another address, over whatever is mapped there. When it fails there may be
    nothing at `to` any more."""
    _remap(address, nbytes, nbytes, _MREMAP_FIXED, to)


def move_pages(address: int, nbytes: int, to: int) -> None:
    """Move a mapping, and leave an empty one behind, so that nobody else maps anything there (Linux
    5.13)."""
    _remap(address, nbytes, nbytes, _MREMAP_FIXED | _MREMAP_DONTUNMAP, to)


def unmap(address: int, nbytes: int) -> None:
    _check(_libc.munmap(*_range(address, nbytes)), "munmap")


def populate(address: int, nbytes: int) -> None:
    """Enter a mapping's pages into the page table now, not at the first touch of each. Before Linux
    5.14 that is left to the first touch."""
    _libc.madvise(*_range(address, nbytes), _MADV_POPULATE_READ)


def punch_hole(fd: int, offset: int, nbytes: int) -> None:
    """Give back the memory of these bytes of a memfd; they read as zeros then."""
    _check(
        _libc.fallocate(
            fd,
            _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE,
            ctypes.c_long(offset),
            ctypes.c_long(nbytes),
        ),
        "fallocate",
    )


def _range(address: int, nbytes: int) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    return ctypes.c_void_p(address), ctypes.c_size_t(nbytes)


def _remap(address: int, old_nbytes: int, new_nbytes: int, flags: int, to: int) -> None:
    where = _libc.mremap(
        *_range(address, old_nbytes),
        ctypes.c_size_t(new_nbytes),
        _MREMAP_MAYMOVE | flags,
        ctypes.c_void_p(to),
    )
    if where != to:
        _check(-1, "mremap")


def trim_heap() -> None:
    """Give freed memory of the C library's heap back to the system (glibc only)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def private_memory() -> dict[str, int]:
    """Bytes of this process by kind, of /proc/self/smaps_rollup: Pss, Private_Dirty, Rss, …"""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in (line.split() for line in lines)}


def address_of(buffer: "WriteableBuffer") -> int:
    """Where a writable buffer begins; true for as long as it lives."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def take_pages(address: int, nbytes: int) -> None:
    """Have the kernel put pages, writable ones, behind these addresses. Other threads run on
    meanwhile, unlike in mmap.madvise(). OSError EINVAL before Linux 5.14."""
    _check(_libc.madvise(*_range(address, nbytes), _MADV_POPULATE_WRITE), "madvise")
