"""The files that the versions were made from, kept open to be read once more.

What lies in a file costs no memory. Weights that came in memory are not kept: that would be a
second copy.
"""

import os
from collections.abc import Callable

from weightd.daemon.admin_plane import OfferedFile


def file_name(key: str) -> str:
    """Under which name a file is in the fd store."""
    return f"file.{key}"


def folder_name(key: str) -> str:
    return f"folder.{key}"


class Sources:
    """Owns one file, and perhaps its folder, for each version, by its uid. Calls `let_go` with the
    key of each that no version was made from any more."""

    def __init__(self, let_go: Callable[[str], object] = lambda _: None) -> None:
        self._let_go = let_go
        self._kept: dict[int, OfferedFile] = {}

    def keep(self, uid: int, offered: OfferedFile) -> None:
        """Owns the file from here on."""
        self._kept[uid] = offered

    def get(self, uid: int) -> OfferedFile | None:
        """The file of a version; it stays kept."""
        return self._kept.get(uid)

    def drop(self, uid: int) -> None:
        if (offered := self._kept.pop(uid, None)) is not None:
            offered.close()
            if all(other.key != offered.key for other in self._kept.values()):
                self._let_go(offered.key)

    def close(self) -> None:
        """Let this process's descriptors go; what is in the fd store stays there."""
        self._let_go = lambda _: None
        for uid in list(self._kept):
            self.drop(uid)


def is_worth_keeping(offered: OfferedFile) -> bool:
    """Not a memfd, or a file that nobody can name: it may be memory."""
    return os.fstat(offered.file_fd).st_nlink > 0
