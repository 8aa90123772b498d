"""share.py: which segments a new version uses again, and that memory stays bounded by it."""

import random
from typing import Any

import msgspec
import pytest

from weightd.errors import BadManifestError
from weightd.weights.entries import Blob, TensorEntry
from weightd.weights.manifest import HEADER_NBYTES, MAX_SEGMENTS, Manifest
from weightd.weights.share import Extent, check_shared, segments_to_share, used_nbytes


def test_a_segment_of_which_half_is_used_is_shared_and_one_byte_less_is_copied() -> None:
    assert segments_to_share([Extent(0, 4096, 500)], [1000]) == (0,)
    assert segments_to_share([Extent(0, 4096, 499)], [1000]) == ()
    assert segments_to_share([Extent(0, 0, 500)], [1001]) == ()


def test_nothing_equal_shares_nothing() -> None:
    assert segments_to_share([], [1000, 2000]) == ()
    assert segments_to_share([Extent(0, 0, 0)], [0]) == ()


def test_bytes_that_two_tensors_share_count_once() -> None:
    assert segments_to_share([Extent(0, 0, 300), Extent(0, 0, 300)], [1000]) == ()
    assert used_nbytes([Extent(1, 0, 300), Extent(1, 100, 300), Extent(1, 500, 1)], 2) == [0, 401]
    assert used_nbytes([Extent(0, 0, 300), Extent(0, 100, 10), Extent(0, 200, 150)], 1) == [350]


def test_at_most_sixteen_segments_and_those_that_cost_least_are_copied() -> None:
    sizes = [100 + n for n in range(20)]
    whole = [Extent(n, 0, nbytes) for n, nbytes in enumerate(sizes)]
    assert segments_to_share(whole, sizes) == tuple(range(5, 20))
    assert len(segments_to_share(whole[:15], sizes[:15])) == 15


@pytest.mark.parametrize("seed", range(200))
def test_the_two_rules_hold_whatever_is_equal(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.randrange(1, 10_000) for _ in range(rng.randrange(1, MAX_SEGMENTS + 1))]
    extents = []
    for number, nbytes in enumerate(sizes):
        for _ in range(rng.randrange(4)):
            begin = rng.randrange(nbytes)
            extents.append(Extent(number, begin, rng.randrange(nbytes - begin + 1)))
    used = used_nbytes(extents, len(sizes))
    shared = segments_to_share(extents, sizes)
    assert list(shared) == sorted(set(shared))
    assert len(shared) < MAX_SEGMENTS
    assert all(2 * used[number] >= sizes[number] > 0 for number in shared)
    if len(shared) < MAX_SEGMENTS - 1:  # what is left out is less than half used
        left_out = set(range(len(sizes))) - set(shared)
        assert all(2 * used[number] < sizes[number] for number in left_out)


class Chain:
    """A model of tensors of these sizes, and what its live version takes after each publish."""

    def __init__(self, sizes: list[int]) -> None:
        self.nbytes = sizes
        self.places = [(0, sum(sizes[:n])) for n in range(len(sizes))]
        self.segments = [sum(sizes)]
        self.written = 0

    def publish(self, changed: set[int]) -> None:
        same = [n for n in range(len(self.nbytes)) if n not in changed]
        shared = segments_to_share(
            [Extent(*self.places[n], self.nbytes[n]) for n in same], self.segments
        )
        new = 0
        for number, nbytes in enumerate(self.nbytes):
            segment, offset = self.places[number]
            if number not in changed and segment in shared:
                self.places[number] = (1 + shared.index(segment), offset)
            else:
                self.places[number] = (0, new)
                new += nbytes
        self.segments = [new, *(self.segments[number] for number in shared)]
        self.written = new


@pytest.mark.parametrize("seed", range(20))
def test_hundreds_of_small_updates_take_at_most_double_and_write_little(seed: int) -> None:
    rng = random.Random(seed)
    chain = Chain([rng.randrange(1, 1000) for _ in range(200)])
    whole = sum(chain.nbytes)
    written = 0
    for _ in range(300):
        chain.publish(set(rng.sample(range(200), 10)))
        assert sum(chain.segments) <= 2 * whole
        assert len(chain.segments) <= MAX_SEGMENTS
        written += chain.written
    assert written / 300 < 0.12 * whole  # of 5 % that change each time


def test_updates_of_one_and_the_same_tensor_take_no_more_and_no_more() -> None:
    chain = Chain([100] * 20)
    for _ in range(500):
        chain.publish({7})
        assert sum(chain.segments) == 2100
        assert chain.written == 100


# --- what a stager claims ----------------------------------------------------------------------

W = TensorEntry("w", "uint8", (64,), 0, HEADER_NBYTES, 64, b"w" * 16)
GRAPH = Blob(1, 0, 100)
LIVE = Manifest(
    model="m",
    version=1,
    layout="tensors",
    segments=(8192, 4096),
    tensors=(W,),
    source_graph=GRAPH,
)


def follower(**changes: Any) -> Manifest:
    """A version that uses both segments of LIVE, in the other order."""
    fields: dict[str, Any] = {
        "version": 2,
        "segments": (12288, 4096, 8192),
        "tensors": (msgspec.structs.replace(W, segment=2),),
        "source_graph": msgspec.structs.replace(GRAPH, segment=1),
    }
    return msgspec.structs.replace(LIVE, **(fields | changes))


def test_what_the_live_version_has_may_be_used() -> None:
    check_shared(follower(), LIVE, (1, 0))
    check_shared(follower(segments=(12288,), tensors=(), source_graph=None), LIVE, ())


CLAIMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "a number out of range": ({}, (1, 2)),
    "a number twice": ({"segments": (12288, 8192, 8192), "source_graph": None}, (0, 0)),
    "one too few": ({}, (1,)),
    "one too many": ({"segments": (12288, 4096), "tensors": ()}, (1, 0)),
    "the other order": ({}, (0, 1)),
    "another size": ({"segments": (12288, 4096, 8193)}, (1, 0)),
    "another place": ({"tensors": (msgspec.structs.replace(W, segment=2, offset=4160),)}, (1, 0)),
    "another digest": (
        {"tensors": (msgspec.structs.replace(W, segment=2, digest=b"x" * 16),)},
        (1, 0),
    ),
    "another part of the graph": ({"source_graph": Blob(1, 0, 99)}, (1, 0)),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_on_anything_else_is_refused(claim: str) -> None:
    changes, numbers = CLAIMS[claim]
    with pytest.raises(BadManifestError, match="older segment"):
        check_shared(follower(**changes), LIVE, numbers)
