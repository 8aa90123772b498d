"""What is left of a protobuf message when its large fields are taken out: places, read once."""

from weightd.errors import BadFileError
from weightd.weights.file import InputFile
from weightd.weights.wire import Field

MAX_MESSAGE_NBYTES = 2**31 - 1  # protobuf's own limit
MAX_FIELDS = 500_000  # a parser takes hundreds of bytes for a field of two


class Rest:
    """Collects the places of fields that are kept as they are; adjacent ones become one."""

    def __init__(self, file: InputFile, max_nbytes: int, what: str) -> None:
        self._file = file
        self._left = max_nbytes
        self._count = 0
        self._what = what
        self._places: list[tuple[int, int]] = []

    def add(self, field: Field) -> None:
        self._left -= field.end - field.start
        if self._left < 0:
            raise BadFileError(f"{self._file.name}: {self._what} is too large without its weights")
        self._count += 1
        if self._count > MAX_FIELDS:
            raise BadFileError(f"{self._file.name}: {self._what} has more than {MAX_FIELDS} fields")
        start = field.start
        if self._places and self._places[-1][1] == start:
            start = self._places.pop()[0]
        self._places.append((start, field.end))

    def read(self) -> bytes:
        pieces = [self._file.read(a, b - a, self._what) for a, b in self._places]
        return b"".join(pieces)
