"""loop.py: one thread, woken by descriptors, timers and other threads."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from weightd.daemon.loop import Loop
from weightd.ipc.bell import Bell


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_readable_descriptor_calls_back(loop: Loop, pipe: tuple[int, int]) -> None:
    seen: list[bytes] = []

    def read() -> None:
        seen.append(os.read(pipe[0], 10))
        loop.stop()

    loop.add(pipe[0], read)
    os.write(pipe[1], b"hello")
    loop.run()
    assert seen == [b"hello"]
    loop.remove(pipe[0])


def test_timers_run_in_the_order_of_their_time_and_of_their_making(loop: Loop) -> None:
    seen: list[int] = []
    for number, delay_s in ((3, 0.02), (1, 0.0), (2, 0.0), (0, -1.0)):
        loop.call_later(delay_s, lambda number=number: seen.append(number))  # type: ignore[misc]
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert seen == [0, 1, 2, 3]


def test_another_thread_can_wake_it_and_is_served_in_the_loops_own(loop: Loop) -> None:
    where: list[int] = []

    def here() -> None:
        where.append(threading.get_ident())
        loop.stop()

    thread = threading.Thread(target=loop.call_soon, args=(here,))
    loop.call_later(0.0, thread.start)
    loop.run()
    thread.join()
    assert where == [threading.get_ident()]


def test_calls_from_many_threads_all_arrive(loop: Loop) -> None:
    seen: list[int] = []

    def took(number: int) -> None:
        seen.append(number)
        if len(seen) == 400:
            loop.stop()

    def call(number: int) -> None:
        for _ in range(100):
            loop.call_soon(lambda: took(number))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    loop.run()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted([0, 1, 2, 3] * 100)


def test_it_does_not_wait_while_somebody_has_work(loop: Loop) -> None:
    left = [5]

    def has_work() -> bool:
        left[0] -= 1
        if left[0] == 1:
            loop.stop()
        return True

    loop.before_sleep(has_work)
    loop.call_later(30.0, lambda: pytest.fail("it waited"))
    started = time.monotonic()
    loop.run()
    assert time.monotonic() - started < 10


def test_a_descriptor_removed_in_the_same_turn_is_not_called(loop: Loop) -> None:
    first, second = os.eventfd(1), os.eventfd(1)
    seen: list[str] = []

    def called(name: str, other: int) -> None:
        seen.append(name)
        loop.remove(other)
        loop.stop()

    loop.add(first, lambda: called("first", second))
    loop.add(second, lambda: called("second", first))
    loop.run()
    assert len(seen) == 1
    for fd in (first, second):
        os.close(fd)


def test_a_number_used_again_in_the_same_turn_does_not_reach_the_callback_of_before(
    loop: Loop,
) -> None:
    ready = [os.eventfd(1), os.eventfd(1)]
    seen: list[str] = []

    def replace(mine: int, other: int) -> None:
        """As when a connection is closed and the next one gets its number."""
        seen.append("replaced")
        loop.remove(other)
        os.close(other)
        new = os.eventfd(0)
        assert new == other
        loop.add(new, lambda: seen.append("the new one, which is not readable"))
        loop.remove(mine)
        loop.call_later(0.01, loop.stop)

    loop.add(ready[0], lambda: replace(ready[0], ready[1]))
    loop.add(ready[1], lambda: replace(ready[1], ready[0]))
    loop.run()
    assert seen == ["replaced"]
    for fd in ready:
        os.close(fd)


def test_calls_that_call_again_do_not_keep_descriptors_waiting(loop: Loop) -> None:
    ready = os.eventfd(1)
    calls = 0

    def call_again() -> None:
        nonlocal calls
        calls += 1
        assert calls < 100, "the descriptor was never looked at"
        loop.call_soon(call_again)

    loop.call_soon(call_again)
    loop.call_later(0.0, lambda: loop.add(ready, loop.stop))
    loop.run()
    os.close(ready)


def test_what_is_called_next_waits_for_the_descriptors_of_its_turn_and_for_nothing_else(
    loop: Loop,
) -> None:
    ready = [os.eventfd(1), os.eventfd(1)]
    seen: list[str] = []

    def read(fd: int) -> None:
        os.eventfd_read(fd)
        seen.append("descriptor")
        loop.call_next(lambda: seen.append("next"))
        loop.remove(fd)

    for fd in ready:
        loop.add(fd, lambda fd=fd: read(fd))  # type: ignore[misc]
    loop.call_later(0.0, lambda: loop.call_next(loop.stop))
    loop.run()
    assert seen == ["descriptor", "descriptor", "next", "next"]
    for fd in ready:
        os.close(fd)


def test_what_ends_the_loop_may_do_so_before_the_bell_rings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop was awake, took the call, ended and was closed, all before it was woken."""
    loop = Loop()
    ring = Bell.ring

    def ring_late(bell: Bell) -> None:
        loop.run()
        loop.close()
        ring(bell)

    monkeypatch.setattr(Bell, "ring", ring_late)
    loop.call_soon(loop.stop)
