"""The files that the versions were made from, kept open to be read once more.

What lies in a file costs no memory. Weights that came in memory are not kept: that would be a
second copy.
"""

import os

from weightd.daemon.admin_plane import OfferedFile


class Sources:
    """Owns one file, and perhaps its folder, for each version, by its uid."""

    def __init__(self) -> None:
        self._kept: dict[int, OfferedFile] = {}

    def keep(self, uid: int, offered: OfferedFile, *, was_kept: bool) -> None:
        """Owns the file from here on. was_kept: it is a version's already, and may have lost its
        name since."""
        # A memfd, or a file that nobody can name: it may be memory.
        if not was_kept and os.fstat(offered.file_fd).st_nlink == 0:
            offered.close()
        else:
            self._kept[uid] = offered

    def get(self, uid: int) -> OfferedFile | None:
        """The file of a version; it stays kept."""
        return self._kept.get(uid)

    def drop(self, uid: int) -> None:
        if (offered := self._kept.pop(uid, None)) is not None:
            offered.close()

    def close(self) -> None:
        for uid in list(self._kept):
            self.drop(uid)
