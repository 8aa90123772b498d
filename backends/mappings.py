"""Which versions this process has mapped, and which it has no longer.

The last array of a version may go in any thread, inside the garbage collector too: that is put in a
queue, and a bell is rung for the one who speaks on the lease.
"""

import queue
from collections import Counter
from collections.abc import Iterator

from weightd.backends.version import MappedVersion
from weightd.ipc.bell import Bell
from weightd.ipc.lease import Grant


class Mappings:
    """Counts mappings by version; a rollback can bring a second one of the same. A number stands
    for a version within one incarnation of the daemon only: see forget()."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._gone: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._count: Counter[int] = Counter()
        self._uids: dict[int, int] = {}  # of each number that is mapped
        self._epoch = 0

    def map(self, grant: Grant) -> MappedVersion:
        """Map what the daemon granted. Takes the grant over."""
        epoch, gone, bell = self._epoch, self._gone, self._bell

        def when_unmapped(number: int) -> None:
            gone.put((epoch, number))
            bell.ring()

        mapped = MappedVersion.of_grant(grant, when_unmapped)
        self._count[mapped.number] += 1
        self._uids[mapped.number] = grant.uid
        return mapped

    @property
    def is_empty(self) -> bool:
        return not self._count

    def has(self, number: int) -> bool:
        """Whether this version is mapped, or was until a moment ago."""
        return number in self._count

    @property
    def has_news(self) -> bool:
        return not self._gone.empty()

    def released(self) -> Iterator[int]:
        """The versions of which the last mapping has gone since."""
        while not self._gone.empty():
            epoch, number = self._gone.get()
            if epoch == self._epoch:
                self._count[number] -= 1
                if not self._count[number]:
                    del self._count[number]
                    yield number

    def held(self, running: MappedVersion, incarnation: str) -> tuple[int, ...]:
        """The uids of what is mapped, that of this version before the others; () if it is not of
        this incarnation: nobody there knows it."""
        of, first = running.name
        if of != incarnation:
            return ()
        uids = {self._uids[number] for number in self._count}
        return (first, *sorted(uids - {first}))

    def forget(self) -> None:
        """What is mapped now is of another incarnation, and nobody is to hear of it."""
        self._epoch += 1
        self._count.clear()
        self._uids.clear()
