"""Publishing and rolling back while workers predict: nothing fails, nothing is torn."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from tests import nets
from tests.daemons import EARLY, FINAL, Daemon, Worker, running_daemon, running_worker
from tests.helpers import open_descriptors, wait_until
from weightd.errors import (
    UnknownTensorError,
    UnknownVersionError,
    WeightdError,
)

X = np.random.default_rng(7).standard_normal((1, 1, 32, 32)).astype(np.float32)


def digests(worker: Worker, count: int = 1) -> set[str]:
    return set(worker.ask("predict", model="lenet", count=count)["digests"])


# --- while workers predict ---------------------------------------------------------------


def test_each_answer_of_a_worker_is_one_versions_own_through_publish_and_rollbacks(
    lenet: Daemon, worker: Worker
) -> None:
    worker.ask("attach", model="lenet")
    final = digests(worker)
    lenet.client.publish("lenet", EARLY)
    worker.ask("wait_for_version", model="lenet", number=2)
    early = digests(worker)
    assert final.isdisjoint(early)
    seen: set[str] = set()
    for _ in range(12):
        worker.send("predict", model="lenet", count=200)
        number = lenet.client.rollback("lenet")
        answer = worker.answer()
        assert "error" not in answer
        seen |= set(answer["digests"])
        worker.ask("wait_for_version", model="lenet", number=number)
    assert seen == final | early


def test_a_worker_switches_by_itself_and_says_so(lenet: Daemon, worker: Worker) -> None:
    worker.ask("attach", model="lenet")
    lenet.client.publish("lenet", EARLY)
    wait_until(lambda: [w.version for w in lenet.client.status().workers] == [2])
    (seen,) = lenet.client.status().workers
    assert (seen.switches, seen.lag) == (1, "")
    assert worker.ask("state", model="lenet") == {"version": 2, "connected": True, "lag": ""}


@pytest.mark.stress
def test_four_threads_predict_through_fifty_rollbacks_untorn(lenet: Daemon) -> None:
    answers: list[set[bytes]] = [set() for _ in range(4)]
    failures: list[BaseException] = []
    stop = threading.Event()
    with lenet.attach_here() as here:
        final = here.predict({"x": X})
        lenet.client.publish("lenet", EARLY)
        here.wait_for_version(2, timeout_s=10)
        early = here.predict({"x": X})

        def predict(seen: set[bytes]) -> None:
            try:
                while not stop.is_set():
                    seen.add(b"".join(v.tobytes() for v in here.predict({"x": X}).values()))
            except WeightdError as error:
                failures.append(error)

        threads = [threading.Thread(target=predict, args=(seen,)) for seen in answers]
        for thread in threads:
            thread.start()
        for _ in range(50):
            here.wait_for_version(lenet.client.rollback("lenet"), timeout_s=10)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    own = {b"".join(v.tobytes() for v in answer.values()) for answer in (final, early)}
    assert set.union(*answers) == own


def test_a_worker_that_sees_two_switches_as_one_still_follows_the_next(
    lenet: Daemon, worker: Worker
) -> None:
    """It pulls the version that it runs already, and must not give that up."""
    worker.ask("attach", model="lenet")
    lenet.client.publish("lenet", EARLY)
    for _ in range(20):
        lenet.client.rollback("lenet")
        lenet.client.rollback("lenet")
    number = lenet.client.publish("lenet", EARLY)
    assert worker.ask("wait_for_version", model="lenet", number=number)["lag"] == ""
    wait_until(lambda: [v.leases for v in lenet.client.status().models["lenet"].versions] == [0, 1])


def test_keep_one_gives_the_old_memory_back_once_nobody_maps_it() -> None:
    with running_daemon(keep=1) as daemon, running_worker(daemon) as worker:
        daemon.load_lenet()
        daemon.client.allow("lenet", worker.pid)
        worker.ask("attach", model="lenet")
        held = daemon.client.status().held_nbytes
        daemon.client.publish("lenet", EARLY)
        wait_until(lambda: daemon.versions() == [(2, "LIVE")])
        assert daemon.client.status().held_nbytes <= held
        memfds = {d for d in open_descriptors_of(daemon.pid) if "memfd:weightd" in d}
        assert memfds == {"/memfd:weightd:lenet.v2 (deleted)"}
        with pytest.raises(UnknownVersionError):
            daemon.client.rollback("lenet")


def open_descriptors_of(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]


def test_a_snapshot_of_weights_stays_on_its_version_and_holds_it() -> None:
    with running_daemon(keep=1) as daemon:
        daemon.client.load("numbers", {"a": np.arange(4)})
        with daemon.attach_here("numbers") as here:
            weights = here.weights
            array = weights["a"]
            daemon.client.publish("numbers", {"a": np.arange(4) + 10})
            here.wait_for_version(2, timeout_s=10)
            assert (weights.version, here.weights.version) == (1, 2)
            assert array.tolist() == [0, 1, 2, 3]
            assert here.weights["a"].tolist() == [10, 11, 12, 13]
            assert daemon.versions("numbers") == [(1, "HELD"), (2, "LIVE")]
            del weights, array
            gc.collect()
            wait_until(lambda: daemon.versions("numbers") == [(2, "LIVE")])


# --- what can be published ---------------------------------------------------------------


def test_memory_can_be_loaded_and_published_in_every_dtype_it_says() -> None:
    first = {
        "bf16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        "f8": np.ones(3, ml_dtypes.float8_e4m3fn),
        "f16": np.ones((2, 2), np.float16)[:, ::2],
        "bool": np.array([True, False]),
        "i64": np.array(-(2**62)),
        "none": np.empty((0, 4), np.float32),
    }
    with running_daemon() as daemon:
        daemon.client.load("m", first)
        with daemon.attach_here("m") as here:
            for name, value in first.items():
                shared = here.weights[name]
                assert (shared.dtype, shared.shape) == (value.dtype, value.shape)
                assert shared.tobytes() == value.tobytes()
                assert not shared.flags.writeable
            with pytest.raises(UnknownTensorError, match="weights without a graph"):
                here.predict({})
            daemon.client.publish(
                "m",
                {name: value * 0 for name, value in first.items() if name != "bool"}
                | {"bool": ~first["bool"]},
            )
            here.wait_for_version(2, timeout_s=10)
            assert here.weights["bool"].tolist() == [False, True]


def test_memory_npz_and_safetensors_of_the_same_weights_answer_alike(
    lenet: Daemon, tmp_path: Path
) -> None:
    arrays = nets.arrays_of(EARLY)
    np.savez(tmp_path / "early.npz", **arrays)
    with lenet.attach_here() as here:
        answers = []
        files: list[Any] = [EARLY, arrays, tmp_path / "early.npz"]
        for number, file in enumerate(files, 2):
            assert lenet.client.publish("lenet", file) == number
            here.wait_for_version(number, timeout_s=10)
            answers.append(b"".join(v.tobytes() for v in here.predict({"x": X}).values()))
    assert len(set(answers)) == 1


def test_weights_that_are_not_numbers_are_the_users_business(lenet: Daemon) -> None:
    arrays = {name: np.full_like(value, np.nan) for name, value in nets.arrays_of(EARLY).items()}
    lenet.client.publish("lenet", arrays)
    with lenet.attach_here() as here:
        (answer,) = here.predict({"x": X}).values()
    assert np.isnan(answer).all()


def test_a_graph_of_the_same_inputs_can_be_published_and_a_bare_set_follows_it(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.client.load("net", nets.saved(nets.dense(0.5), tmp_path / "a.onnx"))
    assert daemon.client.publish("net", nets.saved(nets.dense(2.0), tmp_path / "b.onnx")) == 2
    bare = {"w": np.zeros((16, 16), np.float32), "b": np.ones(16, np.float32)}
    assert daemon.client.publish("net", bare) == 3
    with daemon.attach_here("net") as here:
        assert here.predict({"x": np.ones((2, 16), np.float32)})["y"].tolist() == [[1.0] * 16] * 2


# --- reading weights ---------------------------------------------------------------------


def test_kept_tensors_are_readable_zero_copy_read_only_and_equal_to_the_file() -> None:
    with running_daemon() as daemon:
        daemon.load_lenet(keep_tensors=True)
        daemon.client.publish("lenet", EARLY)
        with daemon.attach_here() as here:
            expected = nets.tensors_of(EARLY)
            assert set(here.weights) == set(expected)
            for name, raw in expected.items():
                array = here.weights[name]
                assert array.tobytes() == raw
                assert not array.flags.writeable
                assert not array.flags.owndata
                assert np.shares_memory(array, here.weights[name])


def test_a_tensor_that_the_optimiser_merged_says_what_to_do(lenet: Daemon) -> None:
    with lenet.attach_here() as here:
        with pytest.raises(UnknownTensorError, match=r"keep_tensors=True"):
            here.weights["conv1.weight"]
        with pytest.raises(KeyError, match=r"no tensor 'conv7\.weight'"):
            here.weights["conv7.weight"]
        assert all(here.weights[name].nbytes for name in here.weights)


def test_a_bare_checkpoint_is_readable_and_says_that_it_has_no_graph(daemon: Daemon) -> None:
    daemon.client.load("bare", FINAL)
    with daemon.attach_here("bare") as here:
        expected = nets.tensors_of(FINAL)
        assert {name: here.weights[name].tobytes() for name in here.weights} == expected
        assert (here.engine, here.inputs) == ("", {})
        with pytest.raises(UnknownTensorError, match="load an ONNX file to predict"):
            here.predict({"x": X})


def test_memory_of_the_tests_own_attachments_goes_back(lenet: Daemon) -> None:
    before = memfds_here()
    with lenet.attach_here():
        assert memfds_here() != before
    assert memfds_here() == before


def memfds_here() -> list[str]:
    return [target for target in open_descriptors().values() if "memfd" in target]


def test_a_constant_that_a_publish_brought_stays_when_the_next_one_leaves_it_out(
    daemon: Daemon, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["h"])]
    nodes.append(helper.make_node("Add", ["h", "b"], ["y"]))
    b, shape = np.ones(1, np.float32), np.array([4, 4])
    net = nets.model(
        nodes,
        {"b": b, "shape": shape},
        inputs=[nets.port("x", [2, 8])],
        outputs=[nets.port("y", ["n", "m"])],
    )
    daemon.client.load("net", nets.saved(net, tmp_path / "net.onnx"))
    daemon.client.publish("net", {"b": b, "shape": np.array([8, 2])})
    daemon.client.publish("net", {"b": b * 2})
    with daemon.attach_here("net") as here:
        assert here.predict({"x": np.zeros((2, 8), np.float32)})["y"].shape == (8, 2)
        daemon.client.update("net", {"b": b * 3})
        here.wait_for_version(4, timeout_s=10)
        answer = here.predict({"x": np.zeros((2, 8), np.float32)})["y"]
        assert answer.shape == (8, 2)
        assert np.all(answer == 3)
