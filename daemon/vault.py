"""The memory itself: the sealed segments of the versions that the daemon holds.

A version has one segment of its own and may use those of versions before it, so a segment stays as
long as any version uses it. While a version is staged, those of the version that it follows stay
too: it may come to use them, whatever becomes of that version meanwhile.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from weightd.daemon.staging import Filled

if TYPE_CHECKING:
    from weightd.ipc.segment import Segment


def segment_name(inode: int) -> str:
    """Under which name a segment is in the fd store."""
    return f"segment.{inode}"


class Vault:
    """Owns the segments. Versions go by their uid, segments by their inode. Calls `let_go` with the
    inode of each that goes back."""

    def __init__(self, let_go: Callable[[int], object] = lambda _: None) -> None:
        self._let_go = let_go
        self._segments: dict[int, Segment] = {}
        self._versions: dict[int, Filled] = {}
        self._retained: dict[int, Filled] = {}  # by the uid of the version that is staged
        self._distrusted: set[int] = set()

    @property
    def nbytes(self) -> int:
        """Of all segments, each counted once."""
        return sum(segment.nbytes for segment in self._segments.values())

    def put(self, uid: int, filled: Filled) -> None:
        """Hold a version. Owns its segments from here on."""
        self._versions[uid] = filled
        self._segments |= {segment.inode: segment for segment in filled.segments}

    def get(self, uid: int) -> Filled:
        return self._versions[uid]

    def free(self, uid: int) -> int:
        """Hold a version no more; returns how many bytes go back, which other versions do not
        use."""
        del self._versions[uid]
        return self._close_unused()

    def retain(self, uid: int, base: Filled) -> None:
        """Keep the segments that version `uid`, which is being staged, may use."""
        self._retained[uid] = base

    def release(self, uid: int) -> int:
        """The staging is over; returns how many bytes go back because of it."""
        self._retained.pop(uid, None)
        return self._close_unused()

    def distrust(self, uid: int, index: int) -> None:
        """This segment of a version has bytes that are not what they were: nothing new may use
        it."""
        self._distrusted.add(self._versions[uid].segments[index].inode)

    def is_trusted(self, filled: Filled) -> bool:
        """Whether nothing wrong was found in any segment that a version uses, by whomever."""
        return self._distrusted.isdisjoint(_inodes([filled]))

    def shared_nbytes(self, uid: int) -> int:
        """How much of a version other versions use too."""
        others = _inodes(filled for other, filled in self._versions.items() if other != uid)
        return sum(s.nbytes for s in self._versions[uid].segments if s.inode in others)

    def nbytes_of(self, uids: Iterable[int]) -> int:
        """Of these versions together, each segment counted once."""
        inodes = _inodes(self._versions[uid] for uid in uids)
        return sum(self._segments[inode].nbytes for inode in inodes)

    def close(self) -> None:
        """Let this process's descriptors go; what is in the fd store stays there."""
        self._let_go = lambda _: None
        self._versions.clear()
        self._retained.clear()
        self._close_unused()

    def _close_unused(self) -> int:
        used = _inodes([*self._versions.values(), *self._retained.values()])
        nbytes = 0
        for inode in self._segments.keys() - used:
            segment = self._segments.pop(inode)
            nbytes += segment.nbytes
            segment.close()
            self._distrusted.discard(inode)
            self._let_go(inode)
        return nbytes


def _inodes(versions: Iterable[Filled]) -> set[int]:
    return {segment.inode for filled in versions for segment in filled.segments}
