"""pages.py: what is needed is there when need() returns, taken by two threads, each step once."""

import threading

import pytest

from weightd.errors import InsufficientMemoryError
from weightd.ipc.pages import Pages

MIB = 2**20


class Taken:
    """What was taken so far, and by whom."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def take(self, offset: int, nbytes: int) -> None:
        self.threads.add(threading.get_ident())
        self.steps.append((offset, nbytes))


def test_all_that_is_needed_is_taken_once_and_no_more_than_there_is() -> None:
    taken = Taken()
    with Pages(taken.take, 101 * MIB + 7) as pages:
        for end in (0, 1, 5 * MIB, 5 * MIB, 60 * MIB, 101 * MIB + 7):
            pages.need(end)
            assert sum(nbytes for _, nbytes in taken.steps) >= end
    at = 0
    for offset, nbytes in sorted(taken.steps):
        assert offset == at
        at += nbytes
    assert at == 101 * MIB + 7


def test_what_lies_far_ahead_is_left_alone() -> None:
    taken = Taken()
    with Pages(taken.take, 2**40) as pages:
        for end, at_most in ((3 * MIB, 6 * MIB), (10 * MIB, 20 * MIB), (300 * MIB, 364 * MIB)):
            pages.need(end)
            assert end <= sum(nbytes for _, nbytes in taken.steps) <= at_most


def test_a_little_needs_no_thread() -> None:
    taken = Taken()
    with Pages(taken.take, MIB) as pages:
        pages.need(MIB)
        assert threading.active_count() == 1
    assert taken.steps == [(0, MIB)]


def test_want_of_memory_ahead_is_told_only_to_who_needs_it() -> None:
    refused = threading.Event()

    def take(offset: int, nbytes: int) -> None:
        if offset >= 20 * MIB:
            refused.set()
            raise InsufficientMemoryError(f"{nbytes} bytes")

    with Pages(take, 64 * MIB) as pages:
        pages.need(12 * MIB)
        assert refused.wait(5)  # the helper, which is ahead
        pages.need(20 * MIB)
        for _ in range(2):
            with pytest.raises(InsufficientMemoryError):
                pages.need(21 * MIB)


def test_what_failed_ahead_is_taken_when_it_is_needed_and_there_is_memory_again() -> None:
    taken = Taken()
    refused = threading.Event()

    def take(offset: int, nbytes: int) -> None:
        if offset == 20 * MIB and not refused.is_set():
            refused.set()
            raise InsufficientMemoryError(f"{nbytes} bytes")
        taken.take(offset, nbytes)

    with Pages(take, 64 * MIB) as pages:
        pages.need(12 * MIB)
        assert refused.wait(5)
        pages.need(64 * MIB)
    assert sorted(offset for offset, _ in taken.steps) == list(range(0, 64 * MIB, 2 * MIB))


def test_both_threads_work_when_there_is_much_to_do() -> None:
    both = threading.Barrier(2, timeout=5)
    taken = Taken()

    def take(offset: int, nbytes: int) -> None:
        taken.take(offset, nbytes)
        if offset < 4 * MIB:  # the first two steps wait for each other
            both.wait()

    with Pages(take, 64 * MIB) as pages:
        pages.need(64 * MIB)
    assert len(taken.threads) == 2
