"""The memory itself: the sealed segment of every version that the daemon holds."""

from weightd.daemon.staging import Filled


class Vault:
    """Owns the segments, by the uid of their version."""

    def __init__(self) -> None:
        self._held: dict[int, Filled] = {}

    @property
    def nbytes(self) -> int:
        return sum(filled.segment.nbytes for filled in self._held.values())

    def put(self, uid: int, filled: Filled) -> None:
        self._held[uid] = filled

    def get(self, uid: int) -> Filled:
        return self._held[uid]

    def free(self, uid: int) -> int:
        """Give the daemon's hold on a version's memory back; returns its size in bytes."""
        filled = self._held.pop(uid)
        filled.segment.close()
        return filled.segment.nbytes

    def close(self) -> None:
        for uid in list(self._held):
            self.free(uid)
