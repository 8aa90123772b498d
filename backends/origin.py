"""Whether two processes have the same model file: by the file itself, else by what is in it."""

import os
from collections.abc import Mapping

from weightd.backends.raw import digest_of
from weightd.errors import BadFileError, MismatchError
from weightd.weights.manifest import ORIGIN, ORIGIN_WEIGHTS
from weightd.weights.source import open_source

WEIGHTS = "weights"  # stamp: the digest of all that was read


def identity_of(fd: int) -> str:
    """The file behind a descriptor, as it is now; '' for one that has no name: it was in memory."""
    found = os.fstat(fd)
    if not found.st_nlink:
        return ""
    times = f"{found.st_mtime_ns}:{found.st_ctime_ns}"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{times}"


def check_same_file(path: str, stamp: Mapping[str, str]) -> None:
    """MismatchError unless the file is the one that a model with this stamp was loaded from, or has
    the same graph and weights. Only a file that is another one, or that has its weights in others,
    is read: one tensor at a time, and nothing is kept."""
    try:
        file_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadFileError(f"cannot open {path}: {error.strerror}") from error
    try:
        here = identity_of(file_fd)
        if not here or here != stamp.get(ORIGIN):
            _check_same_content(path, file_fd, stamp.get(ORIGIN_WEIGHTS, ""))
    finally:
        os.close(file_fd)


def _check_same_content(path: str, file_fd: int, digest: str) -> None:
    folder_fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        with open_source(file_fd, file_name=path, folder_fd=folder_fd) as source:
            if digest_of(source) == digest:
                return
    finally:
        os.close(folder_fd)
    raise MismatchError(
        f"{path} is not the model that is shared under this handle: its graph or weights differ "
        "from those of the file that the other process loaded; give both processes the same file"
    )
