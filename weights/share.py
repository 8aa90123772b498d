"""Which of the live version's segments a new version uses too. Pure: places and sizes, no bytes.

A publish finds places of the live version whose bytes it would write again. It may point to them
instead, and so keeps their segments alive, what nobody needs of them included. Two rules bound what
that costs:

* of each segment that is used again, at least half is in use: memory is at most double the need;
* a version has at most MAX_SEGMENTS, since a worker maps each: the rest is copied, cheapest first.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from weightd.errors import BadManifestError
from weightd.weights.manifest import Manifest
from weightd.weights.manifest_rules import MAX_SEGMENTS


class Extent(NamedTuple):
    """Bytes of one of the live version's segments."""

    segment: int
    offset: int
    nbytes: int


def segments_to_share(extents: Iterable[Extent], sizes: Sequence[int]) -> tuple[int, ...]:
    """The segments to point into, ascending; what lies in the others is to be copied. extents: what
    the new version could use of the live one; sizes: of the live one's segments."""
    used = used_nbytes(extents, len(sizes))
    worth = [n for n, nbytes in enumerate(sizes) if used[n] and 2 * used[n] >= nbytes]
    worth.sort(key=lambda n: used[n], reverse=True)
    return tuple(sorted(worth[: MAX_SEGMENTS - 1]))


def used_nbytes(extents: Iterable[Extent], count: int) -> list[int]:
    """How many bytes of each of `count` segments are used; what two use counts once."""
    used = [0] * count
    ends = [0] * count
    for segment, offset, nbytes in sorted(extents):
        begin, end = max(offset, ends[segment]), offset + nbytes
        used[segment] += max(0, end - begin)
        ends[segment] = max(ends[segment], end)
    return used


def check_shared(new: Manifest, live: Manifest, base_segments: Sequence[int]) -> None:
    """BadManifestError unless the new version's older segments are these of the live one's, and all
    that it has there are tensors and graphs of the live one, with their digests."""
    if len(set(base_segments)) < len(base_segments) or not all(
        0 <= number < len(live.segments) for number in base_segments
    ):
        raise BadManifestError(
            f"the older segments {list(base_segments)} are not among the live version's "
            f"{len(live.segments)}"
        )
    sizes = tuple(live.segments[number] for number in base_segments)
    if new.segments[1:] != sizes:
        raise BadManifestError(
            f"the manifest has older segments of {list(new.segments[1:])} bytes; the live "
            f"version's have {list(sizes)}"
        )
    known = set(_places(live))
    for segment, *rest in _places(new):
        if segment and (base_segments[segment - 1], *rest) not in known:
            raise BadManifestError(
                f"{rest[1]} bytes at {rest[0]} of older segment {segment} are nothing of the live "
                "version's"
            )


def _places(manifest: Manifest) -> Iterator[tuple[int, int, int, bytes]]:
    """Segment, offset, size and digest of all that a manifest places."""
    lists = (
        manifest.tensors,
        manifest.compiled,
        manifest.reference_inputs,
        manifest.reference_outputs,
    )
    for entries in lists:
        for entry in entries:
            yield entry.segment, entry.offset, entry.nbytes, entry.digest
    for blob in (manifest.graph, manifest.source_graph):
        if blob is not None:
            yield blob.segment, blob.offset, blob.nbytes, blob.digest
