"""arena.py: where tensors go in a segment."""

import pytest

from weightd.weights.arena import Arena
from weightd.weights.manifest import HEADER_NBYTES


def test_the_first_tensor_lies_behind_the_header() -> None:
    assert Arena().place(1) == HEADER_NBYTES


@pytest.mark.parametrize(("nbytes", "alignment"), [(1, 64), (4095, 64), (4096, 4096), (9999, 4096)])
def test_small_tensors_lie_on_cache_lines_and_large_ones_on_pages(
    nbytes: int, alignment: int
) -> None:
    arena = Arena()
    arena.place(1)
    assert arena.place(nbytes) == HEADER_NBYTES + alignment


def test_places_ascend_and_never_overlap() -> None:
    arena, end = Arena(start=0), 0
    for nbytes in (5, 0, 64, 5000, 0, 1, 4096, 63):
        offset = arena.place(nbytes)
        assert offset >= end
        assert offset % 64 == 0
        end = offset + nbytes
        assert arena.nbytes == end


def test_an_arena_does_not_overflow() -> None:
    arena = Arena()
    arena.place(2**70)
    assert arena.place(1) > 2**70
