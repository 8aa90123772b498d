"""Host memory that many processes map: a memfd, filled once, then sealed. The only file that
imports mmap.

    new_memfd() ── empty, 0 bytes; made by the daemon, inherited by a stager
    Segment.allocate(fd, nbytes) ── writable, pages taken: in the stager
    Segment.reserve(fd, nbytes) ── writable, pages taken by need(); cut() when less was needed
    segment.seal() ── nobody can write, shrink, grow or unseal it any more, root included
    Segment.adopt(fd) ── read-only, after the seals were checked: in the daemon and in workers

A view of `data` keeps the mapping alive after close(); when the last one goes the kernel takes the
mapping back and the callbacks of when_unmapped() run.
"""

import errno
import fcntl
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Self

from weightd.errors import ClosedError, InsufficientMemoryError, UnsealedSegmentError
from weightd.ipc import linux, memory
from weightd.ipc.pages import Pages

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_MUST_HOLD = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ASKED_NBYTES = 16 * 1024 * 1024  # how much memory is asked for at a time, before it is taken
_MADV_HUGEPAGE = 14


def new_memfd(name: str) -> int:
    """An empty memfd that can be sealed and never be executed. The caller owns the fd."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | linux.MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create(name, flags)  # Linux before 6.3


def reopen_read_only(fd: int) -> int:
    """Another descriptor of the same memory through which nothing can be written."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def check_seals(fd: int) -> None:
    """Raise UnsealedSegmentError unless the memory behind `fd` can never change or shrink."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise UnsealedSegmentError(
            "this descriptor is not a memfd: what is behind it could change or shrink"
        ) from error
    if seals & _MUST_HOLD != _MUST_HOLD:
        raise UnsealedSegmentError(
            f"this memory is not sealed (seals {seals:#x}, needed {_MUST_HOLD:#x}): "
            "its owner could still change it or take it away"
        )


class Segment:
    """One region of shared memory. Owns its file descriptor and its mapping."""

    def __init__(self, fd: int, nbytes: int, mapping: mmap.mmap) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = mapping
        self._pages: Pages | None = None  # that are not taken yet
        self.nbytes = nbytes

    @classmethod
    def allocate(cls, fd: int, nbytes: int, *, budget_nbytes: int | None = None) -> Self:
        """Give an empty memfd its size and its pages, and map it writable.

        Owns `fd` once it returns. Raises InsufficientMemoryError before anything is taken.
        """
        memory.require(nbytes, f"a segment of {nbytes} bytes", budget_nbytes)
        segment = cls.reserve(fd, nbytes)
        try:
            segment.need(nbytes)
        finally:
            segment._stop_taking()
        return segment

    @classmethod
    def reserve(cls, fd: int, nbytes: int) -> Self:
        """Give an empty memfd a size and map it writable; need() takes its pages. Owns `fd` once
        it returns."""
        os.ftruncate(fd, nbytes)
        segment = cls(fd, nbytes, mmap.mmap(fd, nbytes))
        _ask_for_huge_pages(segment._mapping())
        segment._pages = Pages(segment._take, nbytes)
        return segment

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Map sealed memory read-only. Owns `fd` once it returns."""
        check_seals(fd)  # before fstat: a sealed size cannot change any more
        nbytes = os.fstat(fd).st_size
        if nbytes == 0:
            raise UnsealedSegmentError("this memory is empty: nothing was ever put in it")
        try:
            mapping = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        except OSError as error:
            raise InsufficientMemoryError(
                f"a segment of {nbytes} bytes cannot be mapped here: {error.strerror}"
            ) from error
        return cls(fd, nbytes, mapping)

    @property
    def data(self) -> memoryview:
        """All bytes; writable until seal(). The view keeps the mapping alive."""
        return memoryview(self._mapping())[: self.nbytes]

    @property
    def inode(self) -> int:
        """What names this memory among all of the machine's memfds."""
        return os.fstat(self.fileno()).st_ino

    def fileno(self) -> int:
        self._mapping()
        return self._fd

    def need(self, end: int) -> None:
        """Of a reserved segment: return once the bytes before `end` have memory. More is taken
        ahead, in a thread. InsufficientMemoryError when there is too little."""
        assert self._pages is not None
        self._pages.need(end)

    def cut(self, nbytes: int) -> None:
        """Of a reserved segment: this is its size, give back what lies beyond."""
        self._stop_taking()
        os.ftruncate(self.fileno(), nbytes)
        self.nbytes = nbytes

    def append(self, raw: bytes) -> int:
        """Grow an unsealed segment by `raw` and return where it lies (its offset).

        The mapping does not grow: what is appended is seen after seal() and adopt().
        """
        offset = os.fstat(self.fileno()).st_size
        memory.require(len(raw), "the end of a segment")
        written = 0
        while written < len(raw):
            written += os.pwrite(self._fd, raw[written:], offset + written)
        return offset

    def seal(self) -> None:
        """Make the memory read-only for ever and close this writer. No view may be left."""
        self._stop_taking()
        self._mapping().close()  # F_SEAL_WRITE is EBUSY while a writable mapping exists
        self._map = None
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        os.close(self._fd)

    def empty(self) -> None:
        """Give an unsealed segment's memory back and close it; the memfd can be filled anew. No
        view may be left."""
        self._stop_taking()
        self._mapping().close()
        self._map = None
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def when_unmapped(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the last view of this mapping is gone, in whichever thread that is:
        it must not block and must not take locks."""
        weakref.finalize(self._mapping(), callback).atexit = False

    def close(self) -> None:
        """Give up this process's descriptor. Views keep the mapping until they go."""
        if self._map is not None:
            self._stop_taking()
            self._map = None  # not .close(): views may be exported
            os.close(self._fd)

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            raise ClosedError(f"a segment of {self.nbytes} bytes was used after close()")
        return self._map

    def _take(self, offset: int, nbytes: int) -> None:
        if offset % _ASKED_NBYTES == 0:
            asked = min(_ASKED_NBYTES, self.nbytes - offset)
            memory.require(asked, f"{offset + asked} bytes of a segment")
        _take_pages(self._fd, linux.address_of(self._mapping()) + offset, offset, nbytes)

    def _stop_taking(self) -> None:
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _take_pages(fd: int, address: int, offset: int, nbytes: int) -> None:
    """Through the mapping, so that they are huge where it was asked for; fallocate knows only the
    file, and takes small ones."""
    try:
        linux.take_pages(address, nbytes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise InsufficientMemoryError(
                f"{nbytes} bytes of a segment could not be taken: {error.strerror}"
            ) from error
        os.posix_fallocate(fd, offset, nbytes)  # Linux before 5.14


def _ask_for_huge_pages(mapping: mmap.mmap) -> None:
    try:
        mapping.madvise(_MADV_HUGEPAGE)
    except OSError:
        return  # a kernel without transparent huge pages: 4 KiB ones do
