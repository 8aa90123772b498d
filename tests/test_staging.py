"""Loads that go wrong: the stager dies, lies, dawdles or is stopped, and nothing else changes."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import weightd
from tests import nets
from tests.daemons import EARLY, LENET, Daemon, running_daemon
from tests.helpers import wait_until
from weightd.errors import (
    BadFileError,
    CancelledError,
    InsufficientMemoryError,
    LimitError,
    RefusedError,
    StagingError,
    UnknownModelError,
    WeightdError,
)
from weightd.ipc import protocol

BIG = {f"t{n}": np.zeros(2**24, np.float32) for n in range(5)}  # 320 MiB
STOP = signal.SIGSTOP
PAGE_NBYTES = resource.getpagesize()


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for all failures: none of them may leave a trace for the next."""
    with running_daemon() as daemon:
        daemon.load_lenet()
        yield daemon


@pytest.fixture
def unharmed(shared: Daemon) -> Iterator[Daemon]:
    """That daemon; afterwards it must hold exactly what it held, and still stage."""
    before = shared.client.status()
    yield shared
    wait_until(lambda: not shared.client.status().staging)
    after = shared.client.status()
    assert (after.models, after.held_nbytes, after.pid) == (
        before.models,
        before.held_nbytes,
        before.pid,
    )
    wait_until(lambda: memfds(shared) == {f"/memfd:weightd:lenet.v{live(shared)} (deleted)"})


def live(daemon: Daemon) -> int:
    return daemon.client.status().models["lenet"].live


def memfds(daemon: Daemon) -> set[str]:
    found = set()
    for path in Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            found.add(os.readlink(path))
        except FileNotFoundError:
            continue
    return {target for target in found if "memfd:" in target}


class Load(threading.Thread):
    """A load that is stopped (SIGSTOP) at its first progress, until the test decides."""

    def __init__(self, daemon: Daemon, name: str = "big") -> None:
        super().__init__()
        self.daemon_here = daemon
        self.model = name
        self.outcome: int | WeightdError | None = None
        self.start()
        wait_until(lambda: self.stager)
        os.kill(self.stager, STOP)

    @property
    def stager(self) -> int:
        with weightd.Client(self.daemon_here.runtime_dir) as client:
            found = [s.pid for s in client.status().staging if s.model == self.model]
        return found[0] if found else 0

    def run(self) -> None:
        with weightd.Client(self.daemon_here.runtime_dir, timeout_s=60) as client:
            try:
                self.outcome = client.load(self.model, LENET)
            except WeightdError as error:
                self.outcome = error

    def finish(self) -> int | WeightdError | None:
        self.join(30)
        assert not self.is_alive()
        return self.outcome


# --- the stager dies ---------------------------------------------------------------------


def test_a_stager_killed_while_it_fills_memory_changes_nothing(unharmed: Daemon) -> None:
    def kill_it(progress: protocol.Progress) -> None:
        if progress.step != "writing":
            return
        with weightd.Client(unharmed.runtime_dir) as other:
            for staging in other.status().staging:
                os.kill(staging.pid, signal.SIGKILL)

    with pytest.raises(StagingError, match="was killed, most likely for want of memory"):
        unharmed.client.load("big", BIG, on_progress=kill_it)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGXCPU])
def test_a_stager_that_dies_of_a_signal_is_said_to(unharmed: Daemon, number: int) -> None:
    load = Load(unharmed)
    os.kill(load.stager, number)
    os.kill(load.stager, signal.SIGCONT)
    outcome = load.finish()
    assert isinstance(outcome, StagingError)
    expected = "CPU time" if number == signal.SIGXCPU else signal.Signals(number).name
    assert expected in str(outcome)


def test_a_load_can_be_cancelled_even_when_its_stager_hangs(unharmed: Daemon) -> None:
    load = Load(unharmed)
    unharmed.client.cancel("big")
    assert isinstance(load.finish(), CancelledError)
    with pytest.raises(UnknownModelError, match="nothing is being staged"):
        unharmed.client.cancel("big")


def test_a_publish_that_is_cancelled_leaves_the_live_version(unharmed: Daemon) -> None:
    def cancel(progress: protocol.Progress) -> None:
        assert progress.step
        with weightd.Client(unharmed.runtime_dir) as other:
            try:
                other.cancel("lenet")
            except UnknownModelError:
                return  # an earlier report's did it

    with pytest.raises(CancelledError, match="by process"):
        unharmed.client.publish("lenet", EARLY, on_progress=cancel)


def test_the_end_of_the_client_cancels_its_load(unharmed: Daemon) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        with weightd.Client(unharmed.runtime_dir) as client:
            client.load("orphan", BIG, on_progress=lambda _: os.read(read_end, 1))
        os._exit(0)
    os.close(read_end)
    wait_until(lambda: unharmed.client.status().staging)
    os.kill(unharmed.client.status().staging[0].pid, STOP)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: not unharmed.client.status().staging)
    os.close(write_end)
    assert "whoever asked for it is gone" in unharmed.log()


def test_ctrl_c_in_the_client_cancels_its_load(unharmed: Daemon) -> None:
    def interrupt(_: protocol.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unharmed.client.load("big", BIG, on_progress=interrupt)
    wait_until(lambda: not unharmed.client.status().staging)


def test_nonsense_on_the_report_pipe_ends_the_load(unharmed: Daemon) -> None:
    load = Load(unharmed)
    pipe = next(
        path
        for path in Path(f"/proc/{load.stager}/fd").iterdir()
        if int(path.name) > 2 and os.readlink(path).startswith("pipe:")
    )
    with pipe.open("wb", buffering=0) as file:
        file.write(b"\xc1 nonsense")
    outcome = load.finish()
    assert isinstance(outcome, StagingError)
    assert "reported nonsense" in str(outcome)


# --- limits ------------------------------------------------------------------------------


def test_four_loads_at_once_and_the_fifth_is_told_to_come_back(unharmed: Daemon) -> None:
    loads = [Load(unharmed, f"m{n}") for n in range(4)]
    with pytest.raises(LimitError, match="4 models are being staged"):
        unharmed.client.load("m4", LENET)
    for load in loads:
        unharmed.client.cancel(load.model)
    assert all(isinstance(load.finish(), CancelledError) for load in loads)


def test_a_load_that_outlasts_its_deadline_is_stopped() -> None:
    with running_daemon(stage_deadline_s=0.3) as daemon:
        load = Load(daemon)
        outcome = load.finish()
        assert isinstance(outcome, StagingError)
        assert "longer than 0.3 s (stage_deadline_s)" in str(outcome)
        assert not memfds(daemon)


def test_a_budget_counts_what_is_held_and_names_the_numbers() -> None:
    with running_daemon(memory_budget=2 * 2**20) as daemon:
        one = {"t": np.zeros(300_000, np.float32)}  # 1.1 MiB
        daemon.client.load("one", one)
        with pytest.raises(InsufficientMemoryError) as caught:
            daemon.client.load("two", one)
        for text in ("1.1 MiB", "memory budget", "are missing", "unload a model"):
            assert text in str(caught.value)
        daemon.client.unload("one")
        daemon.client.load("two", one)


def test_a_daemon_that_cannot_map_a_version_says_that_and_goes_on() -> None:
    weights = {"t": np.zeros(2**23, np.float32)}  # 32 MiB
    with running_daemon() as daemon:
        daemon.load_lenet()
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_AS)
        address_space = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0]) * PAGE_NBYTES
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, (address_space + 16 * 2**20, limits[1]))
        with pytest.raises(InsufficientMemoryError, match="cannot be mapped here"):
            daemon.client.load("large", weights)
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, limits)
        daemon.client.load("large", weights)
        assert daemon.client.status().pid == daemon.pid


def test_a_budget_is_for_what_stays_not_for_the_compilers_scratch() -> None:
    with running_daemon(memory_budget=600 * 1024) as daemon:
        daemon.load_lenet()  # 245 KiB


def test_two_loads_at_once_cannot_outgrow_the_budget_together() -> None:
    with running_daemon(memory_budget=900 * 1024) as daemon:
        loads = [Load(daemon, f"m{n}") for n in range(4)]
        for load in loads:
            os.kill(load.stager, signal.SIGCONT)
        outcomes = [load.finish() for load in loads]
        status = daemon.client.status()
        assert status.held_nbytes <= 900 * 1024
        assert len(status.models) == outcomes.count(1)
        assert any(isinstance(outcome, InsufficientMemoryError) for outcome in outcomes)


# --- hostile files -----------------------------------------------------------------------


def constant(name: str, values: list[int]) -> onnx.NodeProto:
    tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=tensor)


def expand_bomb() -> onnx.ModelProto:
    nodes = [
        constant("shape", [65536, 65536]),
        constant("one", [1]),
        helper.make_node("Expand", ["one", "shape"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["y"], keepdims=0),
    ]
    return nets.model(nodes, outputs=[nets.port("y", [], TensorProto.INT64)])


def tile_bomb() -> onnx.ModelProto:
    nodes = [
        constant("one", [1, 2, 3, 4]),
        constant("times", [2**31]),
        helper.make_node("Tile", ["one", "times"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["y"], keepdims=0),
    ]
    return nets.model(nodes, outputs=[nets.port("y", [], TensorProto.INT64)])


def endless_loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Add", ["sum", "sum"], ["more"]),
        ],
        "body",
        [
            nets.port("turn", [], TensorProto.INT64),
            nets.port("going", [], TensorProto.BOOL),
            nets.port("sum", [1], TensorProto.INT64),
        ],
        [nets.port("goes_on", [], TensorProto.BOOL), nets.port("more", [1], TensorProto.INT64)],
    )
    nodes = [
        constant("turns1", [2**62]),
        constant("start", [1]),
        helper.make_node("Squeeze", ["turns1"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "start"], ["y"], body=body),
    ]
    return nets.model(nodes, outputs=[nets.port("y", [1], TensorProto.INT64)])


@pytest.mark.parametrize("make", [expand_bomb, tile_bomb, endless_loop])
def test_a_hostile_graph_loads_or_is_refused_and_hurts_only_its_stager(
    make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path = nets.saved(make(), tmp_path / "hostile.onnx")
    with running_daemon(stage_deadline_s=3.0) as daemon:  # which the loop takes to its end
        with contextlib.suppress(RefusedError):  # and nothing else
            daemon.client.load("hostile", path)
        assert daemon.client.status().held_nbytes < 2**20
        daemon.load_lenet()


@pytest.mark.parametrize("where", ["../../etc/passwd", "/etc/passwd", "link", "sub/link"])
def test_external_data_outside_the_models_folder_is_never_read(
    unharmed: Daemon, where: str, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "sub" / "link").symlink_to("/etc/passwd")
    net = nets.dense()
    tensor = net.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=where)
    with pytest.raises(BadFileError, match="external"):
        unharmed.client.load("thief", nets.saved(net, tmp_path / "thief.onnx"))


def test_progress_arrives_and_ends_complete(unharmed: Daemon) -> None:
    seen: list[protocol.Progress] = []
    unharmed.client.load("big", BIG, dry_run=True, on_progress=seen.append)
    steps = [progress.step for progress in seen]
    assert "writing" in steps
    assert all(progress.done <= progress.total for progress in seen)
    done = [progress.done for progress in seen if progress.step == "writing"]
    assert done == sorted(done)
