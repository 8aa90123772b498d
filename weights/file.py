"""A file that somebody offers as weights: its own descriptor, its size, and reads that fail typed.

Reads are pread into memory of ours, never an mmap of the file: truncating a mapped file kills the
reader with SIGBUS, a short pread is an error message.
"""

import errno
import fcntl
import io
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from weightd.errors import BadFileError, UnsealedSegmentError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_CHUNK_NBYTES = 16 * 1024 * 1024

OnChunk = Callable[[memoryview], None]

_NEEDED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE


class InputFile:
    """A regular file, read by position. Owns a duplicate of the descriptor that it is given."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.fd = os.dup(fd)
        try:
            self.nbytes = _checked_size(self.fd, name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"InputFile({self.name!r}, nbytes={self.nbytes}, fd={self.fd})"

    @property
    def is_closed(self) -> bool:
        return self.fd < 0

    def close(self) -> None:
        if not self.is_closed:
            os.close(self.fd)
            self.fd = -1

    def read(self, offset: int, nbytes: int, what: str) -> bytes:
        """Exactly `nbytes` from `offset`; `what` names them in an error."""
        self.check_range(offset, nbytes, what)
        raw = bytearray(nbytes)
        self.read_into(offset, memoryview(raw), what)
        return bytes(raw)

    def read_into(
        self, offset: int, target: memoryview, what: str, on_chunk: OnChunk | None = None
    ) -> None:
        """Fill `target` from `offset` on; on_chunk sees each piece while it is in the cache."""
        for start in range(0, len(target), MAX_CHUNK_NBYTES):
            piece = target[start : start + MAX_CHUNK_NBYTES]
            self._fill(offset + start, piece, what)
            if on_chunk is not None:
                on_chunk(piece)

    def check_range(self, offset: int, nbytes: int, what: str) -> None:
        """BadFileError when these bytes do not all lie in the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise BadFileError(
                f"{self.name}: {what} ends at byte {offset + nbytes}, past the end of the file "
                f"({self.nbytes} bytes)"
            )

    def stream(self) -> io.BufferedReader:
        """A file object over these bytes with a position of its own. Closes nothing."""
        return io.BufferedReader(_Stream(self))

    def _fill(self, offset: int, piece: memoryview, what: str) -> None:
        done = 0
        while done < len(piece):
            count = self.read_some(offset + done, piece[done:], what)
            if not count:
                raise BadFileError(
                    f"{self.name}: the file was truncated: {what} needs byte {offset + done} of it"
                )
            done += count

    def read_some(self, offset: int, target: "WriteableBuffer", what: str) -> int:
        try:
            return os.preadv(self.fd, [target], offset)
        except OSError as error:
            raise BadFileError(f"{self.name}: cannot read {what}: {error.strerror}") from error


class _Stream(io.RawIOBase):
    """The stream for zipfile. It seeks here only: a duplicate shares the caller's position."""

    def __init__(self, file: InputFile) -> None:
        super().__init__()
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.nbytes}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "negative position")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        count = self._file.read_some(self._at, buffer, "its directory")
        self._at += count
        return count


def _checked_size(fd: int, name: str) -> int:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise BadFileError(f"{name} is a directory; give the model or weights file itself")
    if not stat.S_ISREG(status.st_mode):
        raise BadFileError(f"{name} is not a regular file")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise BadFileError(f"{name} is not open for reading")
    _check_seals(fd, name)
    return status.st_size


def _check_seals(fd: int, name: str) -> None:
    # Files on any tmpfs answer F_GET_SEALS; only a memfd can be sealed, and its link says so.
    if not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
        return
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # EINVAL: an ordinary file that is called /memfd:something
        return
    if seals & _NEEDED_SEALS != _NEEDED_SEALS:
        raise UnsealedSegmentError(
            f"{name}: memory that can still change; seal it with F_SEAL_SHRINK and F_SEAL_WRITE "
            "before offering it"
        )


def copy_chunks(content: memoryview, target: memoryview, on_chunk: OnChunk | None) -> None:
    """Fill `target` from memory, as a source fills it from a file."""
    for start in range(0, len(target), MAX_CHUNK_NBYTES):
        piece = target[start : start + MAX_CHUNK_NBYTES]
        piece[:] = content[start : start + len(piece)]
        if on_chunk is not None:
            on_chunk(piece)
