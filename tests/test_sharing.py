"""Unchanged tensors are shared between versions: what it costs, who may get at it, when it goes."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import weightd
from tests import nets
from tests.daemons import Daemon, Worker, running_daemon, running_worker
from tests.helpers import wait_until
from tests.raw import raw_worker
from weightd.errors import (
    BadRequestError,
    InsufficientMemoryError,
    StagingError,
    UnknownVersionError,
    WeightdError,
)
from weightd.ipc import protocol
from weightd.ipc.segment import Segment
from weightd.weights.arrays import Array

LAYERS = 20
WIDTH = 128  # a layer takes 64 KiB
NAMES = [f"w{n}" for n in range(LAYERS)]
RNG = np.random.default_rng(11)


def layers(*names: str) -> dict[str, Array]:
    return {name: RNG.standard_normal((WIDTH, WIDTH), np.float32) / 8 for name in names}


def chain(weights: Mapping[str, Array], path: Path) -> Path:
    """A network of these layers, y = relu(… relu(x @ w0) @ w1 …)."""
    nodes, at = [], "x"
    for name in NAMES:
        nodes += [
            helper.make_node("MatMul", [at, name], [f"{name}_h"]),
            helper.make_node("Relu", [f"{name}_h"], [f"{name}_r"]),
        ]
        at = f"{name}_r"
    ports = [nets.port("x", ["n", WIDTH])], [nets.port(at, ["n", WIDTH])]
    return nets.saved(nets.model(nodes, weights, inputs=ports[0], outputs=ports[1]), path)


def first(layout: str, weights: Mapping[str, Array], folder: Path) -> Path | Mapping[str, Array]:
    """What to load for a version of this layout."""
    return weights if layout == "tensors" else chain(weights, folder / "net.onnx")


class Halted(threading.Thread):
    """A publish whose stager is stopped (SIGSTOP) at its first progress."""

    def __init__(self, daemon: Daemon, weights: Mapping[str, Array]) -> None:
        super().__init__()
        self.stager = 0
        self.outcome: int | WeightdError | None = None
        self._daemon_here = daemon
        self._weights = weights
        self.start()
        wait_until(lambda: daemon.client.status().staging)
        self.stager = daemon.client.status().staging[0].pid
        os.kill(self.stager, signal.SIGSTOP)

    def run(self) -> None:
        with weightd.Client(self._daemon_here.runtime_dir, timeout_s=30) as client:
            try:
                self.outcome = client.publish("m", self._weights)
            except WeightdError as error:
                self.outcome = error

    def finish(self, number: signal.Signals) -> int | WeightdError | None:
        """Send the stager a signal; what became of the publish."""
        os.kill(self.stager, number)
        self.join(20)
        return self.outcome


@pytest.fixture(params=["tensors", "compiled"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def held_by_a_lease(daemon: Daemon) -> Iterator[None]:
    """A worker that maps the live version of `m` and never gives it back by itself."""
    daemon.client.allow("m", os.getpid())
    with raw_worker(daemon) as raw:
        assert isinstance(raw.ask(protocol.Attach("m")), protocol.Granted)
        yield


def memfds(daemon: Daemon) -> list[str]:
    """Those that the daemon holds, each once."""
    return sorted({d for d in targets(daemon.pid) if d.startswith("/memfd:weightd")})


def targets(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]


def assert_reads(daemon: Daemon, weights: Mapping[str, Array]) -> None:
    """A new worker gets exactly these tensors."""
    with daemon.attach_here("m") as here:
        assert {name: here.weights[name].tobytes() for name in here.weights} == {
            name: array.tobytes() for name, array in weights.items()
        }


# --- what it costs -----------------------------------------------------------------------


def test_publishing_five_percent_costs_five_percent_of_the_memory(
    daemon: Daemon, layout: str, tmp_path: Path
) -> None:
    weights = layers(*NAMES)
    daemon.client.load("m", first(layout, weights, tmp_path), engine="plain")
    whole = daemon.client.status().held_nbytes
    daemon.client.publish("m", weights | layers("w7"))
    status = daemon.client.status()
    more = status.held_nbytes - whole
    assert 0.05 * whole < more < 0.07 * whole  # the rest: a header and the manifest
    old, new = status.models["m"].versions
    assert (old.nbytes, old.shared_nbytes) == (whole, whole)
    assert (new.nbytes, new.shared_nbytes) == (whole + more, whole)
    assert status.models["m"].nbytes == status.held_nbytes


def test_publishing_the_same_again_costs_a_header_and_a_manifest(daemon: Daemon) -> None:
    weights = layers(*NAMES)
    daemon.client.load("m", weights)
    before = daemon.client.status().held_nbytes
    daemon.client.publish("m", weights)
    assert daemon.client.status().held_nbytes - before <= 2 * 4096
    assert_reads(daemon, weights)


def test_the_budget_counts_what_is_new() -> None:
    weights = layers(*NAMES)
    with running_daemon(memory_budget=3 * 2**19) as daemon:  # for the model, and a fifth of it
        daemon.client.load("m", weights)
        weights |= layers("w3")
        daemon.client.publish("m", weights)
        with pytest.raises(InsufficientMemoryError, match="memory budget of the daemon"):
            daemon.client.publish("m", layers(*NAMES))
        assert_reads(daemon, weights)


def test_memory_goes_back_when_no_version_uses_it_and_events_say_how_much() -> None:
    with running_daemon(keep=1) as daemon:
        weights = layers(*NAMES)
        daemon.client.load("m", weights)
        whole = daemon.client.status().held_nbytes
        daemon.client.publish("m", weights | layers("w1"))
        assert "freed m version 1 0 bytes" in daemon.log()
        both = daemon.client.status().held_nbytes
        assert both > whole
        [second] = daemon.client.status().models["m"].versions
        assert (second.nbytes, second.shared_nbytes) == (both, 0)
        daemon.client.publish("m", layers(*NAMES))
        assert f"freed m version 2 {both} bytes" in daemon.log()
        assert daemon.client.status().held_nbytes == whole
        assert memfds(daemon) == ["/memfd:weightd:m.v3 (deleted)"]
        daemon.client.unload("m")
        assert daemon.client.status().held_nbytes == 0
        assert memfds(daemon) == []


# --- what workers see --------------------------------------------------------------------


def private_answer(weights: Mapping[str, Array], folder: Path) -> list[float]:
    x = np.ones((2, WIDTH), np.float32)
    (answer,) = nets.privately(chain(weights, folder / "private.onnx"), {"x": x}).values()
    return [float(value) for value in answer.ravel()]


def test_a_worker_maps_a_version_out_of_several_segments(daemon: Daemon, tmp_path: Path) -> None:
    weights = layers(*NAMES)
    daemon.client.load("m", chain(weights, tmp_path / "net.onnx"), engine="plain")
    with running_worker(daemon) as worker:
        daemon.client.allow("m", worker.pid)
        worker.ask("attach", model="m")
        for number in range(2, 6):
            weights |= layers(f"w{number}")
            daemon.client.publish("m", weights)
            worker.ask("wait_for_version", model="m", number=number)
        assert mapped_memfds(worker) >= {f"/memfd:weightd:m.v{n}" for n in range(1, 6)}
        wait_until(lambda: daemon.versions("m") == [(4, "HELD"), (5, "LIVE")])
    with daemon.attach_here("m") as here:
        answer = here.predict({"x": np.ones((2, WIDTH), np.float32)})
    (values,) = answer.values()
    np.testing.assert_allclose(values.ravel(), private_answer(weights, tmp_path), rtol=1e-4)


def mapped_memfds(worker: Worker) -> set[str]:
    lines = Path(f"/proc/{worker.pid}/maps").read_text().splitlines()
    return {line.split()[5] for line in lines if "/memfd:weightd" in line}


def test_a_worker_on_an_old_version_keeps_what_the_new_one_shares(daemon: Daemon) -> None:
    weights = layers(*NAMES)
    daemon.client.load("m", weights)
    with daemon.attach_here("m") as here:
        old = here.weights
        daemon.client.publish("m", weights | layers("w0"))
        here.wait_for_version(2, timeout_s=10)
        new = here.weights
        assert old["w0"].tobytes() == weights["w0"].tobytes() != new["w0"].tobytes()
        assert old["w1"].tobytes() == new["w1"].tobytes()
        del old, new


def test_rolling_back_and_forth_over_shared_segments_reads_right(daemon: Daemon) -> None:
    one = layers(*NAMES)
    two = one | layers("w4")
    daemon.client.load("m", one)
    daemon.client.publish("m", two)
    for weights in (one, two, one):
        daemon.client.rollback("m")
        assert_reads(daemon, weights)
    three = one | layers("w5")
    daemon.client.publish("m", three)  # follows version 1, which is live
    assert_reads(daemon, three)


# --- what hostile workers get ------------------------------------------------------------


def test_a_worker_cannot_fetch_a_version_it_does_not_hold(daemon: Daemon) -> None:
    weights = layers(*NAMES)
    daemon.client.load("m", weights)
    daemon.client.load("other", weights)
    daemon.client.publish("m", weights | layers("w0"))
    daemon.client.allow("m", os.getpid())
    with raw_worker(daemon) as raw:
        assert isinstance(raw.refusal(protocol.Fetch(2, 0)), BadRequestError)  # before Attach
    with raw_worker(daemon) as raw:
        granted = raw.ask(protocol.Attach("m"))
        assert isinstance(granted, protocol.Granted)
        assert len(granted.segments) == 2
        for number in (1, 3, 2**62):
            assert isinstance(raw.refusal(protocol.Fetch(number, 0)), UnknownVersionError)
        for index, nbytes in enumerate(granted.segments):
            raw.say(protocol.Fetch(2, index))
            message, (fd,) = raw.hear()
            assert message == protocol.Fetched(2, index)
            with Segment.adopt(fd) as segment:
                assert segment.nbytes == nbytes
                with pytest.raises(OSError, match="Bad file"):
                    os.pwrite(fd, b"x", 0)
        raw.say(protocol.Released(2))
        assert isinstance(raw.refusal(protocol.Fetch(2, 1)), UnknownVersionError)
        assert isinstance(raw.ask(protocol.Pull()), protocol.Granted)
        assert isinstance(raw.refusal(protocol.Fetch(2, 2)), BadRequestError)
        raw.assert_hung_up()


# --- while a version is staged -----------------------------------------------------------


def test_rollback_while_staging_keeps_the_shared_segment() -> None:
    with running_daemon(keep=1) as daemon:
        one, two = layers(*NAMES), layers(*NAMES)
        daemon.client.load("m", one)
        with held_by_a_lease(daemon):
            daemon.client.publish("m", two)
            three = two | layers("w9")
            publish = Halted(daemon, three)
            daemon.client.rollback("m", 1)  # now nothing holds version 2 but the staging
            assert daemon.versions("m") == [(1, "LIVE")]
            assert publish.finish(signal.SIGCONT) == 3
        wait_until(lambda: daemon.versions("m") == [(3, "LIVE")])
        assert_reads(daemon, three)
        assert memfds(daemon) == [f"/memfd:weightd:m.v{n} (deleted)" for n in (2, 3)]


def test_a_staging_that_fails_gives_back_what_only_it_held() -> None:
    with running_daemon(keep=1) as daemon:
        daemon.client.load("m", layers(*NAMES))
        with held_by_a_lease(daemon):
            daemon.client.publish("m", layers(*NAMES))
            publish = Halted(daemon, layers(*NAMES))
            daemon.client.rollback("m", 1)
            assert len(memfds(daemon)) == 3
            assert isinstance(publish.finish(signal.SIGKILL), StagingError)
            wait_until(lambda: memfds(daemon) == ["/memfd:weightd:m.v1 (deleted)"])
        assert daemon.log().count("freed m version 2") == 2  # what went at once, and what stayed


def test_a_stager_killed_midway_leaves_the_shared_segments_alone(
    daemon: Daemon, layout: str, tmp_path: Path
) -> None:
    weights = layers(*NAMES)
    daemon.client.load("m", first(layout, weights, tmp_path), engine="plain")
    daemon.client.publish("m", weights | layers("w2"))
    before = daemon.client.status()
    publish = Halted(daemon, weights | layers("w3"))
    assert isinstance(publish.finish(signal.SIGKILL), StagingError)
    after = daemon.client.status()
    assert (after.models, after.held_nbytes) == (before.models, before.held_nbytes)
    assert daemon.client.publish("m", weights | layers("w3")) == 3
