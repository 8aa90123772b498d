"""Packed weights through a daemon: workers that predict through publishes and rollbacks, or are
killed, and publishes that are cancelled, doubled, or too large. What is live stays right."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper

import weightd
from tests import nets
from tests.daemons import EARLY, WORKERS, Daemon, Worker, running_daemon, running_worker
from tests.helpers import wait_until
from tests.pairs import Pair, entry_named, paired
from tests.zoo import seeds
from weightd.errors import (
    BusyError,
    CancelledError,
    InsufficientMemoryError,
    StagingError,
    WeightdError,
)

MLP = entry_named("mlp")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(weightd.__file__).parent.parent)}


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon, in which each test has a model of its own."""
    with running_daemon() as daemon:
        daemon.client.status()  # opens what the client keeps open
        yield daemon


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mlp")
    return [nets.saved(net, folder / f"{number}.onnx") for number, net in enumerate(seeds(MLP))]


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(MLP) as pair:
        yield pair


def attached(daemon: Daemon, name: str, worker: Worker) -> str:
    """Allow and attach a worker; returns the digest of its answer."""
    daemon.client.allow(name, worker.pid)
    assert worker.ask("attach", model=name)["engine"] == "prepacked"
    (found,) = worker.ask("predict", model=name)["digests"]
    return str(found)


# --- workers -----------------------------------------------------------------------------


def test_two_workers_answer_one_versions_own_bits_through_rollbacks(shared: Daemon) -> None:
    shared.load_lenet("busy")
    with running_worker(shared) as one, running_worker(shared) as two:
        workers = one, two
        first = {attached(shared, "busy", worker) for worker in workers}
        shared.client.publish("busy", EARLY)
        for worker in workers:
            worker.ask("wait_for_version", model="busy", number=2)
        second = {one.ask("predict", model="busy")["digests"][0]}
        assert len(first | second) == 2
        seen = set()
        for _ in range(6):
            for worker in workers:
                worker.send("predict", model="busy", count=200)
            number = shared.client.rollback("busy")
            for worker in workers:
                answer = worker.answer()
                assert "error" not in answer
                seen |= set(answer["digests"])
            for worker in workers:
                worker.ask("wait_for_version", model="busy", number=number)
        assert seen == first | second
        assert {w.note for w in shared.client.status().workers} == {""}
        assert "switch in place failed" not in shared.log()


def test_a_worker_killed_while_it_switches_releases_what_it_held_and_the_other_goes_on(
    shared: Daemon,
) -> None:
    shared.load_lenet("mourned")
    shared.client.publish("mourned", EARLY)
    with running_worker(shared) as one:
        answer = attached(shared, "mourned", one)
        for _ in range(2):
            with running_worker(shared) as two:
                attached(shared, "mourned", two)
                two.send("predict", model="mourned", count=1_000_000)
                shared.client.rollback("mourned")
                os.kill(two.pid, signal.SIGKILL)
                shared.client.rollback("mourned")
            wait_until(lambda: sum(shared.leases("mourned").values()) == 1)
        number = shared.client.status().models["mourned"].live
        one.ask("wait_for_version", model="mourned", number=number)
        wait_until(lambda: shared.leases("mourned")[number] == 1)
        assert one.ask("predict", model="mourned")["digests"] == [answer]


# --- publishes ---------------------------------------------------------------------------


class Halting(NamedTuple):
    """A daemon whose stagers stop at a step that halt() names, until it is unlinked."""

    daemon: Daemon
    flag: Path

    def halt(self, step: str) -> None:
        self.flag.write_text(f"halt at {step}")

    def publish(self, name: str, file: Path) -> Callable[[], int | WeightdError]:
        """Publish in a thread, up to the step; returns how to wait for its end."""
        outcomes: list[int | WeightdError] = []

        def publish() -> None:
            with weightd.Client(self.daemon.runtime_dir, timeout_s=60) as client:
                try:
                    outcomes.append(client.publish(name, file))
                except WeightdError as error:
                    outcomes.append(error)

        def outcome() -> int | WeightdError:
            thread.join(20)
            return outcomes[0]

        thread = threading.Thread(target=publish)
        thread.start()
        wait_until(lambda: self.stager and is_stopped(self.stager))
        return outcome

    @property
    def stager(self) -> int:
        """The running stager's PID, 0 when there is none."""
        return next((staging.pid for staging in self.daemon.client.status().staging), 0)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.fixture(scope="module")
def halting(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Iterator[Halting]:
    """Version 1 of `mlp` is live in it, and stays so."""
    flag = tmp_path_factory.mktemp("halting") / "flag"
    prefix = (sys.executable, str(WORKERS / "saboteur.py"), str(flag))
    with running_daemon(prefix=prefix) as daemon:
        daemon.client.load("mlp", files[0])
        yield Halting(daemon, flag)


@pytest.fixture
def live(halting: Halting, mlp: Pair) -> Iterator[None]:
    """What is live answers right, and as before at the end."""
    with halting.daemon.attach_here("mlp") as here:
        assert mlp.number_of(here.predict(mlp.feed)) == 1
        yield
        halting.flag.unlink()
        assert halting.daemon.versions("mlp") == [(1, "LIVE")]
        assert (here.version, here.lag) == (1, "")
        assert mlp.number_of(here.predict(mlp.feed)) == 1


@pytest.mark.parametrize("step", ["compiling", "packing", "writing", "verifying"])
@pytest.mark.usefixtures("live")
def test_a_publish_cancelled_at_any_step_leaves_the_live_version(
    halting: Halting, files: list[Path], step: str
) -> None:
    halting.halt(step)
    outcome = halting.publish("mlp", files[1])
    halting.daemon.client.cancel("mlp")
    assert isinstance(outcome(), CancelledError)


@pytest.mark.usefixtures("live")
def test_a_stager_killed_while_it_verifies_leaves_the_live_version(
    halting: Halting, files: list[Path]
) -> None:
    halting.halt("verifying")
    outcome = halting.publish("mlp", files[1])
    os.kill(halting.stager, signal.SIGKILL)
    assert isinstance(outcome(), StagingError)


@pytest.mark.usefixtures("live")
def test_a_client_that_dies_while_it_publishes_leaves_the_live_version(
    halting: Halting, files: list[Path]
) -> None:
    halting.halt("verifying")
    program = f"import weightd; weightd.Client({str(halting.daemon.runtime_dir)!r}, timeout_s=60)"
    publish = f"{program}.publish('mlp', {str(files[1])!r})"
    with subprocess.Popen([sys.executable, "-c", publish], env=ENVIRONMENT) as client:
        wait_until(lambda: halting.stager and is_stopped(halting.stager), timeout_s=20)
        client.kill()
    wait_until(lambda: not halting.stager)


def test_of_two_publishes_at_once_the_second_is_told_to_wait_and_the_first_goes_on(
    halting: Halting, files: list[Path], mlp: Pair
) -> None:
    halting.daemon.client.load("twice", files[0])
    halting.halt("verifying")
    outcome = halting.publish("twice", files[1])
    with pytest.raises(BusyError):
        halting.daemon.client.publish("twice", files[0])
    os.kill(halting.stager, signal.SIGCONT)
    assert outcome() == 2
    halting.flag.unlink()
    with halting.daemon.attach_here("twice") as here:
        assert mlp.number_of(here.predict(mlp.feed)) == 2
    halting.daemon.client.unload("twice")


def test_a_publish_for_which_there_is_no_memory_leaves_the_live_version(
    files: list[Path], mlp: Pair
) -> None:
    with running_daemon(memory_budget=3 * 2**19) as daemon:  # room for one
        daemon.client.load("mlp", files[0])
        with daemon.attach_here("mlp") as here:
            with pytest.raises(InsufficientMemoryError, match="memory budget"):
                daemon.client.publish("mlp", files[1])
            assert daemon.versions("mlp") == [(1, "LIVE")]
            assert (here.version, mlp.number_of(here.predict(mlp.feed))) == (1, 1)
            assert daemon.client.publish("mlp", files[0]) == 2  # the same weights take no more
            here.wait_for_version(2, timeout_s=10)
            assert mlp.number_of(here.predict(mlp.feed)) == 1


def long_to_check(by: float = 1) -> onnx.ModelProto:
    """Forty products of large matrices, one after another."""
    size, last = 512, "x"
    nodes = []
    for number in range(40):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{number}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [last := f"t{number}"]))
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    weights = {"w": np.full((size, size), by / size, np.float32)}
    x, y = (nets.port(name, [size, size]) for name in "xy")
    return nets.model(nodes, weights, inputs=[x], outputs=[y])


ATTACH_AND_END = """
import sys, weightd
where = sys.argv[1]
with weightd.Client(where) as client:
    client.allow("long", weightd.current_pid(runtime_dir=where))
here = weightd.attach("long", runtime_dir=where)  # never closed, as many scripts do
print(here.engine)
"""


SWITCH_AND_END = """
import sys, time, weightd
where, file, after_s = sys.argv[1:]
client = weightd.Client(where)
client.allow("long", weightd.current_pid(runtime_dir=where))
here = weightd.attach("long", runtime_dir=where)
client.publish("long", file)
time.sleep(float(after_s))  # which moment of the switch is the end
print(here.engine)
"""


def test_a_process_that_ends_while_it_switches_ends_well(shared: Daemon, tmp_path: Path) -> None:
    files = [nets.saved(long_to_check(by), tmp_path / f"{by}.onnx") for by in (1, 2)]
    shared.client.load("long", files[0])
    for number, after_s in enumerate(("0.005", "0.01", "0.02", "0.03")):
        file = str(files[(number + 1) % 2])
        argv = [sys.executable, "-c", SWITCH_AND_END, str(shared.runtime_dir), file, after_s]
        done = subprocess.run(
            argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "prepacked\n", "")
    shared.client.unload("long")


def test_a_process_that_ends_while_its_first_answer_is_checked_ends_well(
    shared: Daemon, tmp_path: Path
) -> None:
    shared.client.load("long", nets.saved(long_to_check(), tmp_path / "long.onnx"))
    argv = [sys.executable, "-c", ATTACH_AND_END, str(shared.runtime_dir)]
    for _ in range(3):
        done = subprocess.run(
            argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "prepacked\n", "")
    shared.client.unload("long")
