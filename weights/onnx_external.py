"""External data of an ONNX model: files named by the model, opened beneath the model's own folder.

A model comes from anybody, and the locations in it are whatever its author wrote. The kernel keeps
them inside the folder (openat2: beneath it, through no symbolic link), whatever they contain.
"""

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from weightd.errors import BadFileError
from weightd.weights.file import InputFile

MAX_DIGITS = 19  # of 2**63 - 1


class ExternalPlace(NamedTuple):
    """Where a tensor's bytes lie. length: as the model declares it, or None."""

    location: str
    offset: int
    length: int | None


class ExternalFolder:
    """Opens the files, and keeps the last one: a model may name more files than a process may open.

    The descriptor is a folder's, or that of one file, which then is each file that a model names:
    data that came in memory. Owns a duplicate until close().
    """

    def __init__(self, folder_fd: int | None, model_file: str) -> None:
        self._model_file = model_file
        self._folder_fd = None if folder_fd is None else os.dup(folder_fd)
        self._location = ""
        self._last: InputFile | None = None
        self.is_used = False  # whether any data are in it

    def __enter__(self) -> "ExternalFolder":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._close_last()
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None

    def file(self, location: str, of: str) -> InputFile:
        """The file at `location`; it stays open until the next call. `of` begins a refusal."""
        self.is_used = True
        if self._last is None or location != self._location:
            self._close_last()
            self._last = self._open(location, of)
            self._location = location
        return self._last

    def _close_last(self) -> None:
        if self._last is not None:
            self._last.close()
            self._last = None

    def _open(self, location: str, of: str) -> InputFile:
        if self._folder_fd is None:
            raise BadFileError(
                f"{of} has its data in the file {location!r}: this model has external data, "
                "offer its folder too"
            )
        if not location or location.startswith("/") or "\0" in location:
            raise BadFileError(f"{of}: the external location {location!r} is not a relative path")
        try:
            fd = _opened(self._folder_fd, location)
        except (OSError, UnicodeEncodeError) as error:
            raise BadFileError(
                f"{of}: the external file {location!r} cannot be opened inside the model's "
                f"folder: {error}"
            ) from error
        try:
            file = InputFile(fd, f"{of}: the external file {location!r}")
        finally:
            os.close(fd)
        file.name = f"{self._model_file}: the external file {location!r}"  # of more than one tensor
        return file


def _opened(folder_fd: int, location: str) -> int:
    if stat.S_ISREG(os.fstat(folder_fd).st_mode):
        return os.dup(folder_fd)
    from weightd.ipc.linux import open_beneath

    return open_beneath(folder_fd, location)


def parse_place(pairs: Iterable[tuple[str, str]], of: str) -> ExternalPlace:
    """The place in a TensorProto's external_data. Other keys, such as prepacked_*, are ignored."""
    values: dict[str, str] = {}
    for key, value in pairs:
        if key in values:
            raise BadFileError(f"{of}: external_data has the key {key[:64]!r} twice")
        values[key] = value
    offset = _number(values.get("offset", "0"), f"{of}: the external offset")
    length = values.get("length")
    return ExternalPlace(
        values.get("location", ""),
        offset,
        None if length is None else _number(length, f"{of}: the external length"),
    )


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise BadFileError(f"{what} is not a number of bytes: {text[:64]!r}")
    return int(text)
