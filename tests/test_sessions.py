"""Several sessions over one version: first come first served, one version for each prediction, and
cores and threads as asked for."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial

import pytest

from tests.helpers import wait_until
from tests.pairs import Pair, entry_named, paired
from tests.test_prepacked_sessions import Asking, asking
from weightd.backends.sessions import Sessions, _Line, open_sessions
from weightd.backends.threads import ONE, Threads
from weightd.backends.version import MappedVersion
from weightd.errors import AnswerError, ClosedError, PoisonedError
from weightd.ipc.linux import private_memory
from weightd.weights.arrays import Array


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(entry_named("mlp")) as pair:
        yield pair


def several(pair: Pair, count: int) -> Sessions:
    session = open_sessions(pair.map(1), [ONE] * count)
    assert isinstance(session, Sessions)
    return session


# --- who comes when ----------------------------------------------------------------------


def waiting_for(line: _Line) -> int:
    return len(line._waiting)


def is_waited_for(line: _Line, count: int) -> bool:
    return waiting_for(line) == count


def has_seen(here: Asking, number: int, times: int) -> bool:
    return here.seen.get(number, 0) >= times


def begun(line: _Line, name: str, order: list[str]) -> threading.Thread:
    """A thread that takes a number, writes its name, and gives the number back."""

    def wait() -> None:
        found = line.take()
        order.append(name)
        line.give(found)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_who_waits_is_served_in_the_order_of_coming() -> None:
    line, order = _Line([0]), list[str]()
    number = line.take()
    threads = []
    for name in "abcdefgh":
        threads.append(begun(line, name, order))
        wait_until(partial(is_waited_for, line, len(threads)))
    line.give(number)
    for thread in threads:
        thread.join()
    assert order == list("abcdefgh")


def test_who_comes_late_does_not_overtake_who_waits() -> None:
    line, order = _Line([0]), list[str]()
    number = line.take()
    first = begun(line, "first", order)
    wait_until(partial(is_waited_for, line, 1))
    line.give(number)  # it is the first one's at once, whenever that one wakes up
    assert not line._free or order == ["first"]
    late = begun(line, "late", order)
    for thread in (first, late):
        thread.join()
    assert order == ["first", "late"]


def test_closing_turns_away_who_waits_and_who_comes() -> None:
    line, errors = _Line([0]), []
    line.take()

    def wait() -> None:
        try:
            line.take()
        except ClosedError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: waiting_for(line) == 1)
    line.close()
    thread.join()
    assert "waited for its turn" in errors[0]
    with pytest.raises(ClosedError):
        line.take()


def test_a_number_is_given_back_when_the_run_fails(mlp: Pair) -> None:
    session = several(mlp, 2)
    for _ in range(5):
        with pytest.raises(Exception, match="onnxruntime failed"):
            session.run({"x": next(iter(mlp.feed.values()))[:, :1]})
    assert mlp.run(session) == 1
    session.close()


# --- one copy, one version ---------------------------------------------------------------


def test_more_sessions_map_the_same_memory(mlp: Pair) -> None:
    before = private_memory()["Private_Dirty"]
    session = several(mlp, 8)
    assert [mlp.run(each) for each in session._sessions] == [1] * 8
    weights = sum(os.fstat(fd).st_size for fd in mlp.versions[0].fds)
    # With copies of their own it were eight times the weights; the allocator takes some, too.
    assert private_memory()["Private_Dirty"] - before < 4 * weights
    session.close()


def test_each_prediction_is_of_one_version_while_sessions_switch(mlp: Pair) -> None:
    session = several(mlp, 3)
    with asking(lambda: mlp.run(session), threads=4) as here:
        for number in (2, 1, 2, 1, 2):
            session.swap(mlp.map(number))
            wait_until(partial(has_seen, here, number, here.seen.get(number, 0) + 1))
    assert not here.failures
    assert here.seen.keys() == {1, 2}
    assert mlp.run(session) == 2
    session.close()


def test_when_one_cannot_switch_all_stay(mlp: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    session = several(mlp, 3)
    last = session._sessions[-1]

    def fail(_: object) -> float:
        raise AnswerError("it says something else")

    monkeypatch.setattr(last, "swap", fail)
    with pytest.raises(AnswerError):
        session.swap(mlp.map(2))
    assert [mlp.run(each) for each in session._sessions] == [1, 1, 1]
    session.close()


def test_when_the_way_back_fails_too_nothing_is_answered_on_mixed_versions(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = several(mlp, 2)
    first, last = session._sessions
    swap = first.swap

    def fail(_: object) -> float:
        raise AnswerError("it says something else")

    def once(version: MappedVersion) -> float:
        monkeypatch.setattr(first, "swap", fail)
        return swap(version)

    monkeypatch.setattr(first, "swap", once)
    monkeypatch.setattr(last, "swap", fail)
    with pytest.raises(AnswerError):
        session.swap(mlp.map(2))
    with pytest.raises(PoisonedError, match="so did the way back"):
        mlp.run(session)
    monkeypatch.undo()
    session.swap(mlp.map(2))
    assert [mlp.run(session) for _ in range(4)] == [2] * 4
    session.close()


def test_a_closed_one_predicts_nothing(mlp: Pair) -> None:
    session = several(mlp, 2)
    session.close()
    with pytest.raises(ClosedError):
        mlp.run(session)


# --- threads and cores -------------------------------------------------------------------


def own_threads() -> set[int]:
    """The threads of this process, by the kernel's numbers."""
    return {int(task) for task in os.listdir("/proc/self/task")}


def bound_to(core: int, tasks: set[int]) -> int:
    """How many of these threads are bound to this core. Others of the process come and go."""
    bound = 0
    for task in tasks:
        with suppress(ProcessLookupError):
            bound += os.sched_getaffinity(task) == {core}
    return bound


def test_a_session_has_as_many_threads_as_asked_for(mlp: Pair) -> None:
    before = own_threads()
    session = open_sessions(mlp.map(1), [Threads(3)])
    assert len(own_threads() - before) >= 2
    session.close()


def test_the_threads_of_a_session_are_on_its_cores(mlp: Pair) -> None:
    core = max(os.sched_getaffinity(0))
    before = own_threads()
    session = open_sessions(mlp.map(1), [Threads(3, cores=(core,))])
    wait_until(lambda: bound_to(core, own_threads() - before) == 2)
    session.close()


def test_the_threads_that_run_operators_side_by_side_are_on_its_cores_too(mlp: Pair) -> None:
    core = max(os.sched_getaffinity(0))
    before = own_threads()
    session = open_sessions(mlp.map(1), [Threads(2, operators=2, cores=(core,))])
    wait_until(lambda: bound_to(core, own_threads() - before) == 2)
    session.close()


def test_the_calling_thread_is_on_its_core_for_the_run_alone(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = max(os.sched_getaffinity(0))
    session = open_sessions(mlp.map(1), [Threads(cores=(core,))])
    assert isinstance(session, Sessions)
    before, during = os.sched_getaffinity(0), []
    run = session._sessions[0].run

    def watched(inputs: Mapping[str, Array]) -> dict[str, Array]:
        during.append(os.sched_getaffinity(0))
        return run(inputs)

    monkeypatch.setattr(session._sessions[0], "run", watched)
    assert mlp.run(session) == 1
    assert during == [{core}]
    assert os.sched_getaffinity(0) == before
    session.close()


@pytest.mark.parametrize(
    ("threads", "text"),
    [
        (Threads(3), ""),
        (Threads(1, cores=(4,)), ""),
        (Threads(3, cores=(0, 1, 2)), "2;3"),
        (Threads(4, cores=(5, 7)), "8;6;8"),
    ],
)
def test_cores_are_written_as_onnxruntime_reads_them(threads: Threads, text: str) -> None:
    assert threads.affinities == text
