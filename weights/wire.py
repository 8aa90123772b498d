"""The protobuf wire, read in place: where each field of a message lies in a file.

Only the framing (https://protobuf.dev/programming-guides/encoding): tag, varint, length. A payload
is skipped, not read, so a message of gigabytes costs a few kilobytes of memory. Knows no message.
"""

from collections.abc import Iterator
from typing import NamedTuple

from weightd.errors import BadFileError
from weightd.weights.file import InputFile

VARINT = 0
FIXED64 = 1
LENGTH = 2
FIXED32 = 5

WINDOW_NBYTES = 16 * 1024
MAX_VARINT_NBYTES = 10


class Field(NamedTuple):
    """One field. start: of its tag; offset and nbytes: its payload; value: if it is a varint."""

    number: int
    kind: int
    start: int
    offset: int
    nbytes: int
    value: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


class Wire:
    """Reads fields of a file through a small window."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._window = b""
        self._window_start = 0

    def fields(self, start: int, end: int, what: str) -> Iterator[Field]:
        """The fields of the message in [start, end), in order; BadFileError when it is none."""
        at = start
        while at < end:
            field = self._field(at, end, what)
            if field.end > end:
                raise BadFileError(
                    f"{self._file.name}: field {field.number} of {what} is cut off: it ends at "
                    f"byte {field.end} of {end}"
                )
            yield field
            at = field.end

    def heads(self, start: int, end: int, what: str) -> Iterator[Field]:
        """As fields(), for a message that may be cut off: ends where it does, and says nothing."""
        at = start
        while at < end:
            try:
                field = self._field(at, end, what)
            except BadFileError:
                return
            yield field
            at = field.end

    def packed(self, field: Field, most: int) -> list[int]:
        """The numbers of a packed field, `most` of them at the most."""
        numbers: list[int] = []
        at = field.offset
        while at < field.end and len(numbers) < most:
            number, at = self._varint(at, field.end, "a row of numbers")
            numbers.append(number)
        return numbers

    def _field(self, start: int, end: int, what: str) -> Field:
        tag, at = self._varint(start, end, what)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, after = self._varint(at, end, what)
            return Field(number, kind, start, at, after - at, value)
        if kind == LENGTH:
            nbytes, at = self._varint(at, end, what)
        elif kind in (FIXED64, FIXED32):
            nbytes = 8 if kind == FIXED64 else 4
        else:
            raise BadFileError(
                f"{self._file.name}: {what} has wire type {kind} at byte {start}: no protobuf"
            )
        return Field(number, kind, start, at, nbytes, 0)

    def _varint(self, at: int, end: int, what: str) -> tuple[int, int]:
        value = 0
        for index in range(MAX_VARINT_NBYTES):
            if at + index >= end:
                raise BadFileError(f"{self._file.name}: {what} is cut off at byte {end}")
            byte = self._byte(at + index, what)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, at + index + 1
        raise BadFileError(f"{self._file.name}: {what} has an endless number at byte {at}")

    def _byte(self, at: int, what: str) -> int:
        index = at - self._window_start
        if not 0 <= index < len(self._window):
            nbytes = min(WINDOW_NBYTES, self._file.nbytes - at)
            self._window = self._file.read(at, nbytes, what)
            self._window_start, index = at, 0
        return self._window[index]


def varint(value: int) -> bytes:
    """The bytes of a number."""
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    raw.append(value)
    return bytes(raw)


def length_field(number: int, payload: bytes) -> bytes:
    """The bytes of a field that carries `payload`."""
    return varint(number << 3 | LENGTH) + varint(len(payload)) + payload
