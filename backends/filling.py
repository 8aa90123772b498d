"""A segment that is being filled: each tensor is read in where it would lie, and compared as it
comes. One that the live version has already takes no place: the next one is read over it.

While it is filled, an entry's segment is 0 for the new one and 1 + n for number n of the live
version. settle() chooses which of those are used, and final() gives an entry its last place.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from xxhash import xxh3_128, xxh3_128_digest

from weightd.backends.live import LiveVersion
from weightd.ipc import memory
from weightd.ipc.segment import Segment
from weightd.weights.arena import Arena
from weightd.weights.arrays import are_equal
from weightd.weights.entries import Blob, TensorEntry
from weightd.weights.file import MAX_CHUNK_NBYTES, OnChunk
from weightd.weights.share import Extent, segments_to_share
from weightd.weights.source import TensorSpec

ReadInto = Callable[[str, memoryview, OnChunk], None]
Place = TensorEntry | Blob
P = TypeVar("P", TensorEntry, Blob)


class Filling:
    """Fills `segment`, which is the caller's, from the header on. live: what may be used again;
    budget_nbytes: how large the new segment may become."""

    def __init__(
        self, segment: Segment, live: LiveVersion | None, budget_nbytes: int | None
    ) -> None:
        self._segment = segment
        self._live = live
        self._budget_nbytes = budget_nbytes
        self._arena = Arena()
        self.shared: tuple[int, ...] = ()  # the live version's segments that are used, once settled

    @property
    def nbytes(self) -> int:
        return self._arena.nbytes

    def add_blob(self, content: bytes, old: Blob | None) -> Blob:
        """Write a graph, unless `old`, the live version's, is the same."""
        if old is not None and content and are_equal(memoryview(content), self._bytes_of(old)):
            return _replaced(old, segment=old.segment + 1)
        digest = xxh3_128_digest(content)
        return Blob(0, self._write(memoryview(content)), len(content), digest)

    def add(self, spec: TensorSpec, read_into: ReadInto, old: TensorEntry | None) -> TensorEntry:
        """Read a tensor in, unless `old`, the live version's of that name, has the same bytes."""
        if old is not None and (old.dtype, old.shape) != (spec.dtype, spec.shape):
            old = None
        offset = self._arena.next_offset(spec.nbytes)
        digest = self._read(spec, read_into, offset, old if spec.nbytes else None)
        if digest is None:
            assert old is not None
            return _replaced(old, segment=old.segment + 1)
        self._take_place(spec.nbytes)
        return TensorEntry(spec.name, spec.dtype, spec.shape, 0, offset, spec.nbytes, digest)

    def settle(self, places: Iterable[Place]) -> None:
        """Choose the live version's segments to use, for all places that were added."""
        if self._live is None:
            return
        old = [Extent(p.segment - 1, p.offset, p.nbytes) for p in places if p.segment]
        self.shared = segments_to_share(old, self._live.manifest.segments)

    def final(self, place: P) -> P:
        """Where it lies in the end: copied into the new segment if its own is not used."""
        if place.segment == 0:
            return place
        old = _replaced(place, segment=place.segment - 1)
        if old.segment in self.shared:
            return _replaced(place, segment=1 + self.shared.index(old.segment))
        return _replaced(place, segment=0, offset=self._write(self._bytes_of(old)))

    def bytes_of(self, place: Place) -> memoryview:
        """What lies at a final place."""
        if place.segment:
            assert self._live is not None
            older = self._live.segments[self.shared[place.segment - 1]]
            return older.data[place.offset : place.offset + place.nbytes]
        return self._segment.data[place.offset : place.offset + place.nbytes]

    def _bytes_of(self, old: Place) -> memoryview:
        assert self._live is not None
        return self._live.bytes_of(old)

    def _read(
        self, spec: TensorSpec, read_into: ReadInto, offset: int, old: TensorEntry | None
    ) -> bytes | None:
        """Read a tensor to `offset`; its digest, or None when it is what `old` has."""
        end = offset + spec.nbytes
        reading = _Reading(
            self._segment.data[offset:end],
            None if old is None else self._bytes_of(old),
            lambda done: self._segment.need(min(end, offset + done + MAX_CHUNK_NBYTES)),
        )
        if spec.nbytes:
            read_into(spec.name, reading.target, reading.on_chunk)
        return reading.digest

    def _write(self, content: memoryview) -> int:
        offset = self._take_place(len(content))
        with self._segment.data as data:
            for start in range(0, len(content), MAX_CHUNK_NBYTES):
                piece = content[start : start + MAX_CHUNK_NBYTES]
                begin = offset + start
                self._segment.need(begin + len(piece))
                data[begin : begin + len(piece)] = piece
        return offset

    def _take_place(self, nbytes: int) -> int:
        offset = self._arena.place(nbytes)
        budget = self._budget_nbytes
        if budget is not None and self._arena.nbytes > budget:
            memory.require(
                self._arena.nbytes, "the part of this version that is known to be new", budget
            )
        return offset


class _Reading:
    """One tensor coming in: compared with `before` as long as it is the same, hashed otherwise.
    Nothing is hashed whose digest is known."""

    def __init__(
        self, target: memoryview, before: memoryview | None, need: Callable[[int], object]
    ) -> None:
        self.target = target
        self._before = before
        self._need = need
        self._hasher = xxh3_128() if before is None else None
        self._done = 0
        need(0)

    @property
    def digest(self) -> bytes | None:
        return None if self._hasher is None else self._hasher.digest()

    def on_chunk(self, piece: memoryview) -> None:
        begin, self._done = self._done, self._done + len(piece)
        before = None if self._before is None else self._before[begin : self._done]
        if self._hasher is None and before is not None and not are_equal(piece, before):
            self._hasher = xxh3_128(self.target[:begin])
        if self._hasher is not None:
            self._hasher.update(piece)
        self._need(self._done)


def _replaced(place: P, **changes: Any) -> P:
    return msgspec.structs.replace(place, **changes)
