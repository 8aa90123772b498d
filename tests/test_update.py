"""Updates: some weights change, the others stay, for everybody at once; and what cannot be is
refused, with nothing changed."""

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import nets
from tests.daemons import EARLY, FINAL, LENET, Daemon, running_daemon, running_worker
from tests.helpers import wait_until
from weightd.backends import onnxruntime
from weightd.errors import MismatchError, SourceChangedError, WeightdError
from weightd.weights.arrays import Array

MINDIR = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"
X = np.random.default_rng(7).standard_normal((1, 1, 32, 32)).astype(np.float32)
EARLY_ARRAYS = nets.arrays_of(EARLY)
HEAD = ("fc3.bias", "fc3.weight")


def head() -> dict[str, Array]:
    """The last layer of other weights of LeNet-5."""
    return {name: EARLY_ARRAYS[name] for name in HEAD}


def with_weights(arrays: Mapping[str, Array], target: Path, base: Path = LENET) -> Path:
    """The model with some of its weights replaced: what an update must come to."""
    net = onnx.load(base)
    for tensor in net.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return nets.saved(net, target)


def expected(arrays: Mapping[str, Array], folder: Path) -> Array:
    answer: Array = nets.privately(with_weights(arrays, folder / "merged.onnx"), {"x": X})["12"]
    return answer


def is_near(found: Array, wanted: Array) -> bool:
    """But for rounding: the plain engine packs nothing, and sums in another order."""
    return bool(np.allclose(found, wanted, atol=1e-4))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of LeNet-5 that a test may change."""
    path = tmp_path / "lenet5.onnx"
    path.write_bytes(LENET.read_bytes())
    return path


@pytest.fixture(params=["prepacked", "plain"])
def served(request: pytest.FixtureRequest, daemon: Daemon, model: Path) -> Iterator[Daemon]:
    daemon.client.load("lenet", model, engine=request.param)
    return daemon  # type: ignore[return-value]


# --- what changes, and what stays --------------------------------------------------------


def test_what_an_update_brings_changes_and_the_rest_stays(served: Daemon, tmp_path: Path) -> None:
    with served.attach_here() as here:
        assert served.client.update("lenet", head()) == 2
        here.wait_for_version(2, timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(head(), tmp_path))


def test_updates_add_up_and_the_last_one_counts(served: Daemon, tmp_path: Path) -> None:
    changed = {"conv1.weight": EARLY_ARRAYS["conv1.weight"], **head()}
    with served.attach_here() as here:
        served.client.update("lenet", {"conv1.weight": EARLY_ARRAYS["conv1.weight"]})
        served.client.update("lenet", {name: 2 * array for name, array in head().items()})
        served.client.update("lenet", head())
        here.wait_for_version(4, timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(changed, tmp_path))


def test_an_update_follows_what_was_rolled_back_to(served: Daemon, tmp_path: Path) -> None:
    served.client.update("lenet", {"conv1.weight": EARLY_ARRAYS["conv1.weight"]})
    served.client.rollback("lenet")
    with served.attach_here() as here:
        assert served.client.update("lenet", head()) == 3
        here.wait_for_version(3, timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(head(), tmp_path))


def test_an_update_follows_a_published_set_and_a_published_set_ends_it(
    served: Daemon, tmp_path: Path
) -> None:
    bias = {"fc3.bias": np.zeros(10, np.float32)}
    with served.attach_here() as here:
        served.client.publish("lenet", EARLY)
        served.client.update("lenet", bias)
        here.wait_for_version(3, timeout_s=10)
        both = EARLY_ARRAYS | bias
        assert is_near(here.predict({"x": X})["12"], expected(both, tmp_path))
        served.client.publish("lenet", FINAL)
        served.client.update("lenet", head())
        here.wait_for_version(5, timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(head(), tmp_path))


def test_weights_that_came_under_other_names_are_updated_by_the_models(
    daemon: Daemon, tmp_path: Path
) -> None:
    arrays: dict[str, Any] = {f"net.{name}": array for name, array in EARLY_ARRAYS.items()}
    np.savez(tmp_path / "other.npz", **arrays)
    daemon.load_lenet()
    daemon.client.publish("lenet", tmp_path / "other.npz", names=("net.*=*",))
    bias = {"fc3.bias": np.zeros(10, np.float32)}
    with daemon.attach_here() as here:
        daemon.client.update("lenet", bias)
        here.wait_for_version(3, timeout_s=10)
        both = EARLY_ARRAYS | bias
        assert is_near(here.predict({"x": X})["12"], expected(both, tmp_path))


def test_weights_without_a_graph_are_updated_without_their_file(
    daemon: Daemon, tmp_path: Path
) -> None:
    np.savez(tmp_path / "w.npz", a=np.arange(5000), b=np.zeros(3))
    daemon.client.load("table", tmp_path / "w.npz")
    (tmp_path / "w.npz").write_bytes(b"gone")
    with daemon.attach_here("table") as here:
        daemon.client.update("table", {"b": np.ones(3)})
        here.wait_for_version(2, timeout_s=10)
        assert np.array_equal(here.weights["b"], np.ones(3))
        assert np.array_equal(here.weights["a"], np.arange(5000))


def test_normalisation_that_was_folded_into_a_convolution_can_be_updated(
    daemon: Daemon, tmp_path: Path
) -> None:
    weights, x = nets.normalised_parts()
    changed = {"scale": np.full(4, 3, np.float32), "mean": np.zeros(4, np.float32)}
    after = nets.saved(nets.normalised(weights | changed), tmp_path / "after.onnx")
    daemon.client.load("net", nets.saved(nets.normalised(weights), tmp_path / "before.onnx"))
    with daemon.attach_here("net") as here:
        daemon.client.update("net", changed)
        here.wait_for_version(2, timeout_s=10)
        wanted = nets.privately(after, {"x": x})["y"]
        assert np.allclose(here.predict({"x": x})["y"], wanted, atol=1e-5)


def test_an_update_from_a_file_says_where_the_weights_are_from(
    served: Daemon, tmp_path: Path
) -> None:
    np.savez(tmp_path / "head.npz", **dict[str, Any](head()))
    served.client.update("lenet", tmp_path / "head.npz")
    served.client.update("lenet", {"fc1.bias": EARLY_ARRAYS["fc1.bias"]})
    assert served.client.status().models["lenet"].source == "lenet5.onnx (onnx) + 3 updated"


def test_the_weights_of_an_update_may_lie_beside_its_file(daemon: Daemon, tmp_path: Path) -> None:
    daemon.load_lenet()
    path = tmp_path / "update" / "head.onnx"
    path.parent.mkdir()
    net = nets.model([helper.make_node("Identity", ["x"], ["y"])], head())
    onnx.save(net, path, save_as_external_data=True, location="head.bin", size_threshold=0)
    with daemon.attach_here() as here:
        here.wait_for_version(daemon.client.update("lenet", path), timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(head(), tmp_path))


def test_a_small_update_of_a_large_model_takes_little_new_memory(
    daemon: Daemon, tmp_path: Path
) -> None:
    large = nets.dense(size=16, extra={})
    tensors = {"w": np.random.default_rng(1).random((16, 2**18)).astype(np.float32)}
    tensors["b"] = np.zeros(2**18, np.float32)
    net = nets.model(list(large.graph.node), tensors, outputs=[nets.port("y", ["n", 2**18])])
    daemon.client.load("large", nets.saved(net, tmp_path / "large.onnx"))
    held = daemon.client.status().held_nbytes
    daemon.client.update("large", {"b": np.ones(2**18, np.float32)})
    new = daemon.client.status().held_nbytes - held
    assert new < tensors["w"].nbytes / 4


# --- while workers predict ---------------------------------------------------------------


@pytest.mark.stress
def test_every_answer_is_of_one_version_while_updates_come(lenet: Daemon) -> None:
    answers: list[bytes] = []
    seen: set[bytes] = set()
    failures: list[WeightdError] = []
    stop = threading.Event()
    with lenet.attach_here() as here:

        def predict() -> None:
            try:
                while not stop.is_set():
                    seen.add(here.predict({"x": X})["12"].tobytes())
            except WeightdError as error:
                failures.append(error)

        threads = [threading.Thread(target=predict) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            number = lenet.client.update("lenet", {n: a * (turn + 2) for n, a in head().items()})
            here.wait_for_version(number, timeout_s=20)
            answers.append(here.predict({"x": X})["12"].tobytes())
        stop.set()
        for thread in threads:
            thread.join()
        first = lenet.client
        assert first.status().models["lenet"].live == 7
    assert not failures
    assert len(seen - set(answers)) == 1  # the one before the first update
    assert len(set(answers)) == 6


def test_workers_switch_to_an_update_in_place(lenet: Daemon) -> None:
    with running_worker(lenet) as worker:
        lenet.client.allow("lenet", worker.ask("current_pid")["pid"])
        worker.ask("attach", model="lenet")
        lenet.client.update("lenet", head())
        wait_until(lambda: [w.version for w in lenet.client.status().workers] == [2])
        (seen,) = lenet.client.status().workers
        assert seen.note == ""


def test_a_worker_that_cannot_use_an_update_gets_it_once_more_with_its_tensors(
    lenet: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lenet.client.update("lenet", head())
    real = onnxruntime.stamp()
    monkeypatch.setattr(onnxruntime, "stamp", lambda: {**real, "onnxruntime": "0.1"})
    with lenet.attach_here() as unfit:
        assert (unfit.version, unfit.engine) == (3, "plain")
        assert is_near(unfit.predict({"x": X})["12"], expected(head(), tmp_path))
        wanted = nets.arrays_of(FINAL) | head()
        assert all(np.array_equal(unfit.weights[name], wanted[name]) for name in wanted)
        monkeypatch.undo()
        again = {"fc1.bias": EARLY_ARRAYS["fc1.bias"]}
        unfit.wait_for_version(lenet.client.update("lenet", again), timeout_s=10)
        assert is_near(unfit.predict({"x": X})["12"], expected(head() | again, tmp_path))


def test_an_update_of_everything_needs_no_file(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    daemon.client.load("lenet", model)
    model.write_bytes(b"")
    daemon.client.update("lenet", EARLY_ARRAYS)
    bias = {"fc3.bias": np.zeros(10, np.float32)}
    with daemon.attach_here() as here:
        here.wait_for_version(daemon.client.update("lenet", bias), timeout_s=10)
        both = EARLY_ARRAYS | bias
        assert is_near(here.predict({"x": X})["12"], expected(both, tmp_path))


# --- what is refused ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for all refusals: none of them may leave a trace for the next."""
    with running_daemon() as running:
        running.load_lenet()
        running.client.load("memory", {"w": np.zeros(3)})
        yield running


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "empty|nothing|no tensors"),
    "unknown": ({"fc9": np.zeros(1)}, "not in the model: fc9"),
    "shape": ({"fc3.bias": np.zeros(9, np.float32)}, "other shape: fc3.bias"),
    "dtype": ({"fc3.bias": np.zeros(10)}, "other dtype: fc3.bias"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_update_that_does_not_fit_changes_nothing(shared: Daemon, case: str) -> None:
    update, message = REFUSED[case]
    before = shared.versions()
    with pytest.raises(WeightdError, match=message):
        shared.client.update("lenet", update)
    assert shared.versions() == before


def test_an_update_can_be_tried(shared: Daemon) -> None:
    before = shared.versions()
    assert shared.client.update("lenet", head(), dry_run=True) == 2
    assert shared.versions() == before


@pytest.mark.parametrize("content", [b"nothing that weightd reads", "weights", "shape"])
def test_a_file_that_has_changed_is_refused_and_nothing_changes(
    daemon: Daemon, model: Path, content: bytes | str
) -> None:
    daemon.client.load("lenet", model)
    if content == "weights":
        with_weights({"fc1.weight": EARLY_ARRAYS["fc1.weight"]}, model)
    elif content == "shape":
        nets.saved(nets.dense(), model)
    else:
        assert isinstance(content, bytes)
        model.write_bytes(content)
    with pytest.raises(WeightdError) as caught:
        daemon.client.update("lenet", head())
    assert isinstance(caught.value, SourceChangedError)
    assert "Publish a full set" in str(caught.value)
    assert daemon.versions() == [(1, "LIVE")]


def test_a_file_that_was_replaced_by_another_is_still_read(
    daemon: Daemon, model: Path, tmp_path: Path
) -> None:
    daemon.client.load("lenet", model)
    other = with_weights({"fc1.weight": EARLY_ARRAYS["fc1.weight"]}, tmp_path / "other.onnx")
    other.replace(model)
    with daemon.attach_here() as here:
        daemon.client.update("lenet", head())
        here.wait_for_version(2, timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(head(), tmp_path))


def test_a_model_whose_file_was_deleted_is_updated_again_and_again(
    daemon: Daemon, model: Path, tmp_path: Path
) -> None:
    daemon.client.load("lenet", model)
    model.unlink()
    with daemon.attach_here() as here:
        for name, array in head().items():
            here.wait_for_version(daemon.client.update("lenet", {name: array}), timeout_s=10)
        assert is_near(here.predict({"x": X})["12"], expected(head(), tmp_path))


def test_packed_weights_that_came_in_memory_cannot_be_updated_in_part(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.load_lenet()
    daemon.client.publish("lenet", EARLY_ARRAYS)
    with pytest.raises(MismatchError, match="--keep-tensors"):
        daemon.client.update("lenet", {"fc3.bias": np.zeros(10, np.float32)})
    daemon.load_lenet("kept", keep_tensors=True)
    daemon.client.publish("kept", EARLY_ARRAYS)
    assert daemon.client.update("kept", {"fc3.bias": np.zeros(10, np.float32)}) == 3


def test_an_update_needs_a_model(daemon: Daemon) -> None:
    with pytest.raises(WeightdError, match="no model 'lenet'"):
        daemon.client.update("lenet", head())


def test_the_descriptors_of_updates_do_not_pile_up(lenet: Daemon) -> None:
    def count() -> int:
        return len(os.listdir(f"/proc/{lenet.pid}/fd"))

    lenet.client.update("lenet", head(), dry_run=True)
    before = count()
    for _ in range(4):
        lenet.client.update("lenet", head(), dry_run=True)
        with pytest.raises(MismatchError):
            lenet.client.update("lenet", {"fc9": np.zeros(1)})
    wait_until(lambda: count() <= before)
