"""The arena: where each tensor of one version goes in its segment. Pure arithmetic.

A tensor of a page or more begins on a page, so that a worker can map it by itself; a smaller one
on a cache line.
"""

from weightd.weights.manifest_rules import ALIGNMENT, HEADER_NBYTES

PAGE_NBYTES = 4096


class Arena:
    """Hands out offsets, ascending. nbytes: the end of what was placed so far."""

    def __init__(self, start: int = HEADER_NBYTES) -> None:
        self.nbytes = start

    def __repr__(self) -> str:
        return f"Arena(nbytes={self.nbytes})"

    def place(self, nbytes: int) -> int:
        """The offset for the next `nbytes`, which are taken from here on."""
        offset = self.next_offset(nbytes)
        self.nbytes = offset + nbytes
        return offset

    def next_offset(self, nbytes: int) -> int:
        """Where place() would put them."""
        alignment = ALIGNMENT if nbytes < PAGE_NBYTES else PAGE_NBYTES
        return -(-self.nbytes // alignment) * alignment
