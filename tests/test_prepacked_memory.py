"""A worker has no copy of the weights: not when it opens, not when it predicts, not when it
switches.

What is its own is its anonymous memory. (Private_Dirty has the segment's pages, too, as long as
nobody else maps them.)
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import nets
from tests.daemons import Daemon, Worker, running_daemon, running_worker
from tests.zoo import answer, private_session
from weightd.weights.arrays import Array

MIB = 2**20
WIDTH = 2048
LAYERS = 3  # of 16 MiB each
SLACK_NBYTES = 8 * MIB


def mlp(width: int, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """x times each of the weights, in turn."""
    nodes, at = [], "x"
    for name in weights:
        nodes += [
            helper.make_node("MatMul", [at, name], [f"{name}_h"]),
            helper.make_node("Relu", [f"{name}_h"], [f"{name}_r"]),
        ]
        at = f"{name}_r"
    ports = [nets.port("x", ["n", width])], [nets.port(at, ["n", width])]
    return nets.model(nodes, weights, inputs=ports[0], outputs=ports[1])


def random(width: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        f"w{n}": rng.standard_normal((width, width), np.float32) / np.float32(width**0.5)
        for n in range(LAYERS)
    }


def digest(net: onnx.ModelProto, width: int) -> str:
    """Of what a private session says."""
    x = np.linspace(0, 1, width, dtype=np.float32)[np.newaxis]
    (output,) = answer(private_session(net), {"x": x}).values()
    return hashlib.sha256(output.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon with a large model and a small one, and the digests of the large one's two
    answers. Version 2 is live after `publish`."""
    folder = tmp_path_factory.mktemp("memory")
    with running_daemon() as daemon:
        daemon.client.load("small", nets.saved(mlp(16, random(16, 0)), folder / "small.onnx"))
        first = mlp(WIDTH, random(WIDTH, 1))
        daemon.client.load("large", nets.saved(first, folder / "large.onnx"))
        yield daemon, [digest(first, WIDTH), digest(mlp(WIDTH, random(WIDTH, 2)), WIDTH)]


def asked(daemon: Daemon, worker: Worker, model: str, version: int) -> Any:
    daemon.client.allow(model, worker.pid)
    found = worker.ask("predict", model=model, wait_for=version)
    assert found["engine"] == "prepacked"
    return found


def test_a_worker_has_nothing_of_the_weights_to_itself_through_open_predict_and_switch(
    served: tuple[Daemon, list[str]],
) -> None:
    daemon, digests = served
    with (
        running_worker(daemon, script="measuring_worker.py") as bare,
        running_worker(daemon, script="measuring_worker.py") as worker,
    ):
        allowed = asked(daemon, bare, "small", 1)["own_nbytes"] + SLACK_NBYTES
        opened = asked(daemon, worker, "large", 1)
        assert opened["digest"] == digests[0]
        assert opened["own_nbytes"] < allowed
        daemon.client.publish("large", random(WIDTH, 2))
        switched = asked(daemon, worker, "large", 2)
        assert switched["digest"] == digests[1]
        assert switched["own_nbytes"] < allowed
        assert WIDTH * WIDTH * 4 == 2 * SLACK_NBYTES  # a copy of one layer would show
        assert mapped_of_daemon(worker.pid) >= LAYERS * WIDTH * WIDTH * 4


def mapped_of_daemon(pid: int) -> int:
    """How many bytes of the daemon's memory a process has mapped."""
    found = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "/memfd:weightd:large" in line:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            found += end - start
    return found
