"""Files that a command opens itself: read by the user's own process, and nobody else's."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from weightd.errors import BadFileError


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """A file and its folder, in which external data may lie, as descriptors."""
    with ExitStack() as resources:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            resources.callback(os.close, fd)
            folder_fd = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            resources.callback(os.close, folder_fd)
        except OSError as error:
            raise BadFileError(f"cannot open {path}: {error.strerror}") from error
        yield fd, folder_fd
