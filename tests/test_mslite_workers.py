"""What the workers of a ModelParallelRunner really have: sessions, threads, cores, one copy of the
weights, and a line in front of them."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.helpers import wait_until
from tests.nets import dense, model, port, saved
from tests.runners import LONG, SHORT, Asking, context, looping, opened, turns
from weightd import Context, Model, ModelParallelRunner, ModelType, Tensor
from weightd.backends.sessions import Sessions, _Line
from weightd.home import SharedHome

pytestmark = pytest.mark.usefixtures("own_runtime")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(2), tmp_path / "model.mindir")


def sessions_of(runner: ModelParallelRunner) -> Sessions:
    assert isinstance(runner._home, SharedHome)
    session = runner._home._attachment._session
    assert isinstance(session, Sessions)
    return session


# --- workers, threads, cores -----------------------------------------------------------------


def test_each_worker_has_a_session_and_none_asked_for_is_one_for_each_core(file: Path) -> None:
    for asked, threads, workers in ((1, 1, 1), (3, 1, 3), (0, 1, cores()), (0, cores(), 1)):
        with opened(file, context(asked, threads)) as runner:
            session = runner._home
            assert isinstance(session, SharedHome)
            assert len(session._attachment._threads) == workers


def cores() -> int:
    return len(os.sched_getaffinity(0))


def tasks() -> set[int]:
    """The threads of this process, by the kernel's numbers."""
    return {int(task) for task in os.listdir("/proc/self/task")}


def engines_own(before: set[int]) -> int:
    """How many new threads there are that are neither Python's nor ZeroMQ's."""
    others = {thread.native_id for thread in threading.enumerate()}
    return sum("ZMQ" not in name_of(task) for task in tasks() - before - others)


def name_of(task: int) -> str:
    try:
        return Path(f"/proc/self/task/{task}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "ZMQ, perhaps: it has ended"


@pytest.mark.parametrize(("threads", "own"), [(1, 0), (2, 2), (3, 4)])
def test_each_worker_has_the_threads_that_were_asked_for(
    file: Path, threads: int, own: int
) -> None:
    before = tasks()
    with opened(file, context(2, threads)):  # the thread that asks is one of them
        wait_until(lambda: engines_own(before) == own)


def test_operators_that_run_side_by_side_have_threads_too(file: Path) -> None:
    wanted, before = context(2, 2), tasks()
    wanted.cpu.inter_op_parallel_num = 2
    with opened(file, wanted):
        wait_until(lambda: engines_own(before) >= 4)


def allowed(task: int) -> str:
    """The cores on which the kernel lets this thread run, as it writes them."""
    try:
        status = Path(f"/proc/self/task/{task}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""
    return next(line.split()[1] for line in status.splitlines() if "Cpus_allowed_list" in line)


def is_on(task: int, core: int) -> bool:
    return allowed(task) == str(core)


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_predictions_run_on_the_cores_that_were_asked_for(tmp_path: Path) -> None:
    path = saved(looping(), tmp_path / "loop.mindir")
    one, other = sorted(os.sched_getaffinity(0))[:2]
    before = tasks()
    with opened(path, context(2, 2, (other, one))) as runner:
        # of two sessions, one thread each: the second of two cores
        wait_until(lambda: [allowed(task) for task in tasks() - before].count(str(one)) >= 2)
        asking = [Asking(lambda: runner.predict([turns(LONG)])) for _ in range(2)]
        for each in asking:
            task = each.thread.native_id
            assert task is not None
            wait_until(partial(is_on, task, other))
        assert [each.join() for each in asking] == [None, None]
        here = threading.get_native_id()
        was = allowed(here)
        runner.predict([turns(SHORT)])
        assert allowed(here) == was


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_the_fastest_cores_are_dealt_out_in_order(tmp_path: Path) -> None:
    path = saved(looping(), tmp_path / "loop.mindir")
    wanted = context(2, 1)
    wanted.cpu.thread_affinity_mode = 1
    with opened(path, wanted) as runner:
        asking = [Asking(lambda: runner.predict([turns(LONG)])) for _ in range(2)]
        on = {each.thread.native_id or 0 for each in asking}
        wait_until(lambda: len({allowed(task) for task in on}) == 2 and len(list(bound(on))) == 2)
        assert [each.join() for each in asking] == [None, None]


def bound(found: set[int]) -> Iterator[int]:
    return (int(allowed(task)) for task in found if allowed(task).isdecimal())


@pytest.mark.parametrize("wanted", [context(1, 2000), context(2000, 1), context(1, 2**40)])
def test_more_threads_or_workers_than_any_machine_has_are_refused(
    file: Path, wanted: Context
) -> None:
    with ModelParallelRunner() as runner, pytest.raises(RuntimeError, match="more than 1024"):
        runner.build_from_file(str(file), wanted)
    if wanted.cpu.thread_num > 1024:
        with Model() as alone, pytest.raises(RuntimeError, match="build_from_file failed! Error"):
            alone.build_from_file(str(file), ModelType.MINDIR, wanted)


def test_a_core_that_is_not_there_is_an_error(file: Path) -> None:
    with ModelParallelRunner() as runner, pytest.raises(RuntimeError, match="may not use"):
        runner.build_from_file(str(file), context(1, 1, (4095,)))


def pss() -> int:
    """What this process has of memory, of shared memory its share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("Pss:")))


def test_more_workers_have_one_copy_of_the_weights(tmp_path: Path) -> None:
    side = 3072
    w = np.random.default_rng(1).standard_normal((side, side)).astype(np.float32)
    net = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": w},
        inputs=[port("x", ["n", side])],
        outputs=[port("y", ["n", side])],
    )
    path, x, copy = saved(net, tmp_path / "large.mindir"), np.ones((1, side), np.float32), w.nbytes
    del net, w
    with opened(saved(dense(), tmp_path / "small.mindir")):  # what a first one loads
        before = pss()
    with opened(path, context(4)) as runner:
        for _ in range(8):
            runner.predict([Tensor(x)])
        assert pss() - before < 1.5 * copy


# --- who comes when ----------------------------------------------------------------------------


def is_waited_for(line: _Line, count: int) -> bool:
    """Whether all numbers are taken, and so many wait for one."""
    return not line._free and len(line._waiting) == count


def test_who_came_first_is_served_first(tmp_path: Path) -> None:
    with opened(saved(looping(), tmp_path / "loop.mindir"), context(1)) as runner:
        line = sessions_of(runner)._line
        order: list[int] = []

        def ask(number: int) -> None:
            runner.predict([turns(LONG if number == 0 else SHORT)])
            order.append(number)

        asking = []
        for number in range(6):
            asking.append(Asking(partial(ask, number)))
            wait_until(partial(is_waited_for, line, number))
        assert [each.join() for each in asking] == [None] * 6
        assert order == list(range(6))


def test_closing_turns_away_who_waits_and_lets_end_who_runs(tmp_path: Path) -> None:
    runner = opened(saved(looping(), tmp_path / "loop.mindir"), context(1))
    line = sessions_of(runner)._line
    runner.predict([turns(SHORT)])
    running = Asking(lambda: runner.predict([turns(LONG)]))
    wait_until(partial(is_waited_for, line, 0))
    waiting = [Asking(lambda: runner.predict([turns(SHORT)])) for _ in range(4)]
    wait_until(partial(is_waited_for, line, 4))
    runner.close()
    assert running.join() is None
    for fault in [each.join() for each in waiting]:
        assert isinstance(fault, RuntimeError)
        assert str(fault).startswith("predict failed! Error is the session was closed")
