"""A memfd that always holds one whole value: two slots, and a word that says which one counts.

    0        8        64                 4096             4096 + SLOT_NBYTES
    | magic  | layout | commit word ...  | slot 0         | slot 1         |
                        number n, which    number, size, digest, bytes
                        is in slot n & 1

A new value is written to the slot that does not count, and then the word, in one write of eight
bytes. A process that is killed between any two writes leaves the old value or the new one, never
half of one. The size is sealed; the bytes are the owner's to write, so only the owner has it.
"""

import fcntl
import os
import struct
from typing import Self

from xxhash import xxh3_128_digest

from weightd.errors import DamagedStateError, LimitError, NewerFormatError
from weightd.ipc.segment import new_memfd

LAYOUT = 1  # read: exactly this one; see docs/decisions/0019
SLOT_NBYTES = 16 * 2**20  # sparse: what is not written takes no memory
_MAGIC = b"weightd\x00"
_WORD_OFFSET = 64
_SLOTS_OFFSET = 4096
_NBYTES = _SLOTS_OFFSET + 2 * SLOT_NBYTES
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PREAMBLE = struct.Struct("<8sQ")
_WORD = struct.Struct("<Q")
_HEAD = struct.Struct("<QQ16s")


class Slots:
    """Owns the descriptor. value: what was committed last, b'' before the first commit."""

    def __init__(self, fd: int, number: int, value: bytes) -> None:
        self._fd = fd
        self._number = number
        self.value = value

    @classmethod
    def new(cls, name: str) -> Self:
        """Empty ones, in a new memfd."""
        fd = new_memfd(name)
        try:
            os.ftruncate(fd, _NBYTES)
            os.pwrite(fd, _PREAMBLE.pack(_MAGIC, LAYOUT), 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, 0, b"")

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Those that an earlier process left. Owns `fd` once it returns. DamagedStateError when it
        is not what new() made, or what counts is not what was written; NewerFormatError when a
        newer weightd made it."""
        _check_memory(fd)
        (number,) = _WORD.unpack(os.pread(fd, _WORD.size, _WORD_OFFSET))
        return cls(fd, number, _read_slot(fd, number) if number else b"")

    @property
    def is_nearly_full(self) -> bool:
        """Whether the value takes three quarters of what it may: time to let it grow no more."""
        return len(self.value) > SLOT_NBYTES * 3 // 4

    def commit(self, value: bytes) -> None:
        """Make this the value. LimitError when it is too large; OSError when memory has run out.
        Both change nothing."""
        if len(value) + _HEAD.size > SLOT_NBYTES:
            raise LimitError(f"a state of {len(value)} bytes; there is room for {SLOT_NBYTES}")
        number = self._number + 1
        head = _HEAD.pack(number, len(value), xxh3_128_digest(value))
        _write(self._fd, head + value, _slot_offset(number))
        self._turn(number)
        self._number, self.value = number, value

    def _turn(self, number: int) -> None:
        """Have the other slot count: eight bytes of one page, which are written whole or not."""
        os.pwrite(self._fd, _WORD.pack(number), _WORD_OFFSET)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _slot_offset(number: int) -> int:
    return _SLOTS_OFFSET + (number & 1) * SLOT_NBYTES


def _write(fd: int, raw: bytes, offset: int) -> None:
    view = memoryview(raw)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _check_memory(fd: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise DamagedStateError("it is not a memfd") from error
    if seals & _SEALS != _SEALS or os.fstat(fd).st_size != _NBYTES:
        raise DamagedStateError(f"it is not of the size and the seals ({seals:#x}) of a state")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR or seals & fcntl.F_SEAL_WRITE:
        raise DamagedStateError("it cannot be written, so that nothing new could be noted in it")
    magic, layout = _PREAMBLE.unpack(os.pread(fd, _PREAMBLE.size, 0))
    if magic != _MAGIC:
        raise DamagedStateError("it does not begin as a state does")
    if layout > LAYOUT:
        raise NewerFormatError(f"it has layout {layout}, and this weightd reads layout {LAYOUT}")
    if layout != LAYOUT:
        raise DamagedStateError(
            f"it has layout {layout}, and this weightd reads layout {LAYOUT}: it was written by an "
            "older one"
        )


def _read_slot(fd: int, number: int) -> bytes:
    offset = _slot_offset(number)
    found, nbytes, digest = _HEAD.unpack(os.pread(fd, _HEAD.size, offset))
    if found != number:
        raise DamagedStateError(f"slot {number & 1} holds commit {found}, not {number}")
    if nbytes > SLOT_NBYTES - _HEAD.size:
        raise DamagedStateError(
            f"commit {number} says that it wrote {nbytes} bytes: more than fits"
        )
    value = os.pread(fd, nbytes, offset + _HEAD.size)
    if xxh3_128_digest(value) != digest:
        raise DamagedStateError(f"what commit {number} wrote does not have its digest any more")
    return value
