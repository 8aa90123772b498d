"""Sessions on packed weights in one process: several of them, several threads, many switches."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.helpers import wait_until
from tests.pairs import Pair, core_of, entry_named, maps_of_memfds, number_of_maps, paired
from weightd.backends import answer
from weightd.backends.answer import Answer
from weightd.backends.prepacked.core import Core
from weightd.errors import AnswerError, ClosedError
from weightd.ipc.maps import read_maps


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(entry_named("mlp")) as pair:
        yield pair


class Asking:
    """Threads that ask again and again. seen: how often each version answered; 0 is neither."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.failures: list[BaseException] = []
        self.stop = threading.Event()

    def ask(self, run: Callable[[], int]) -> None:
        try:
            while not self.stop.is_set():
                number = run()
                self.seen[number] = self.seen.get(number, 0) + 1
        except BaseException as error:  # noqa: BLE001 - the test says what it was
            self.failures.append(error)


@contextmanager
def asking(run: Callable[[], int], *, threads: int) -> Iterator[Asking]:
    """`run` in so many threads, until the end of the `with`."""
    here = Asking()
    running = [threading.Thread(target=here.ask, args=(run,)) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield here
    finally:
        here.stop.set()
        for thread in running:
            thread.join()


@pytest.mark.parametrize("name", ["mlp", "residual", "lstm", "attention", "nbits4"])
@pytest.mark.parametrize("threads", [2, 4])
def test_with_more_threads_the_answers_are_right_but_for_rounding(name: str, threads: int) -> None:
    with paired(entry_named(name)) as pair:
        session = pair.open_packed(1, threads=threads)
        core = core_of(session)
        for number in (1, 2, 1):
            session.swap(pair.map(number))
            near = Answer(pair.feed, pair.answers[number - 1], is_exact=False)
            answer.check(session.run(pair.feed), near)
            other = near._replace(outputs=pair.answers[2 - number])
            with pytest.raises(AnswerError):
                answer.check(session.run(pair.feed), other)
        assert core_of(session) is core
        session.close()


def test_sessions_of_one_version_switch_each_for_itself(mlp: Pair) -> None:
    one, two = mlp.open_packed(1), mlp.open_packed(1)
    one.swap(mlp.map(2))
    assert (mlp.run(one), mlp.run(two)) == (2, 1)
    two.swap(mlp.map(2))
    one.swap(mlp.map(1))
    assert (mlp.run(one), mlp.run(two)) == (1, 2)
    one.close()
    assert mlp.run(two) == 2
    two.close()


def test_sessions_over_the_same_mapping_switch_each_for_itself(mlp: Pair) -> None:
    first, second = mlp.map(1), mlp.map(2)
    one, two = mlp.open_packed(1), mlp.open_packed(1)
    for session in (one, two):
        session.swap(first)
    one.swap(second)
    assert (mlp.run(one), mlp.run(two)) == (2, 1)
    one.close()
    two.close()


def test_models_in_one_process_do_not_meet(mlp: Pair) -> None:
    with paired(entry_named("lstm")) as lstm:
        dense, recurrent = mlp.open_packed(1), lstm.open_packed(2)
        for number in (2, 1, 2):
            dense.swap(mlp.map(number))
            recurrent.swap(lstm.map(3 - number))
            assert (mlp.run(dense), lstm.run(recurrent)) == (number, 3 - number)
        recurrent.close()
        assert mlp.run(dense) == 2
        dense.close()


def test_a_session_that_is_closed_leaves_those_that_run_alone(mlp: Pair) -> None:
    kept = mlp.open_packed(1)
    with asking(lambda: mlp.run(kept), threads=2) as here:
        for number in (1, 2) * 5:
            other = mlp.open_packed(number)
            assert mlp.run(other) == number
            other.close()
            del other
            asked = sum(here.seen.values())
            wait_until(lambda: here.failures or sum(here.seen.values()) > asked)  # noqa: B023
    assert not here.failures
    assert here.seen.keys() == {1}
    kept.close()


def test_a_session_closed_under_those_who_run_it_answers_right_or_says_that_it_is_closed(
    mlp: Pair,
) -> None:
    session = mlp.open_packed(1)
    with asking(lambda: mlp.run(session), threads=4) as here:
        wait_until(lambda: here.seen)
        session.close()
        wait_until(lambda: len(here.failures) == 4)
    assert {type(error) for error in here.failures} == {ClosedError}
    assert here.seen.keys() == {1}
    with pytest.raises(ClosedError):
        session.swap(mlp.map(2))


@pytest.mark.stress
def test_every_answer_in_twenty_switches_is_one_versions_own_and_none_fails(mlp: Pair) -> None:
    session = mlp.open_packed(1)
    core = core_of(session)
    with asking(lambda: mlp.run(session), threads=4) as here:
        for turn in range(20):
            number = 2 - turn % 2
            session.swap(mlp.map(number))
            asked = here.seen.get(number, 0)
            wait_until(lambda: here.failures or here.seen.get(number, 0) > asked)  # noqa: B023
    assert not here.failures
    assert here.seen.keys() == {1, 2}
    assert core_of(session) is core
    session.close()


def test_the_version_that_is_shown_can_be_mapped_anew_and_the_next_is_still_shown_in_place(
    mlp: Pair,
) -> None:
    """As when a worker pulls twice, or a forked child attaches."""
    session = mlp.open_packed(1)
    core = core_of(session)
    for number in (1, 2, 2, 1, 1):
        again = mlp.map(number)
        session.swap(again)
        assert core.version is again
        assert mlp.run(session) == number
    assert core_of(session) is core
    session.close()


def test_nothing_that_was_mapped_is_left_after_twenty_switches(mlp: Pair) -> None:
    gc.collect()
    memfds = maps_of_memfds()
    session = mlp.open_packed(1)
    gc.collect()
    opened = number_of_maps()
    for turn in range(20):
        session.swap(mlp.map(2 - turn % 2))
        assert mlp.run(session) == 2 - turn % 2
    gc.collect()
    assert number_of_maps() <= opened
    session.close()
    del session
    gc.collect()
    assert maps_of_memfds() == memfds


def test_a_version_is_let_go_by_the_switch_to_the_next(mlp: Pair) -> None:
    gc.collect()
    others = inodes_mapped()
    session = mlp.open_packed(1)
    assert mlp.run(session) == 1
    assert inodes_mapped() - others == {inode_of(mlp, 1)}
    session.swap(mlp.map(2))
    gc.collect()
    assert inodes_mapped() - others == {inode_of(mlp, 2)}
    session.close()


def inode_of(pair: Pair, number: int) -> int:
    return os.fstat(pair.versions[number - 1].fds[0]).st_ino


def inodes_mapped() -> set[int]:
    return {m.inode for m in read_maps() if "/memfd:" in m.path}


def test_closing_waits_for_the_check_that_goes_on(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()
    check = Core.check

    def slow(core: Core) -> None:
        began.set()
        may_end.wait()
        check(core)

    monkeypatch.setattr(Core, "check", slow)
    session = mlp.open_packed()
    assert began.wait(10)
    closing = threading.Thread(target=session.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    may_end.set()
    closing.join(10)
    assert not closing.is_alive()
    assert maps_of_memfds() == 0
