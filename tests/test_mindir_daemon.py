"""MindIR models through a real daemon: loaded, shared, and given new weights from any file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.daemons import EARLY, FINAL, LENET, Daemon, running_daemon
from tests.mindir import private_session
from tests.test_checkpoint import arrays_of
from tests.test_evaluation import digits
from tests.test_readers import open_path
from weightd.backends.raw import RawTensors
from weightd.errors import MismatchError, UnsupportedModelError
from weightd.weights.arrays import Array

LENET5 = Path(__file__).parent / "data" / "lenet5"
MINDIR = LENET5 / "lenet5.mindir"
CASES = Path(__file__).parent / "data" / "mindir"
BOUND = 2e-5  # of the largest value


def answers(daemon: Daemon, name: str, batch: int, **options: Any) -> Array:
    """The model's outputs for the digits, in batches that fill."""
    x = digits()["x"]
    with daemon.attach_here(name, **options) as here:
        stops = range(batch, len(x) + 1, batch)
        return np.concatenate([here.predict({"x": x[s - batch : s]})["output"] for s in stops])


@pytest.mark.parametrize("engine", ["prepacked", "plain", "reference"])
def test_lenet_answers_as_mindspore_does(engine: str) -> None:
    with running_daemon() as daemon:
        daemon.client.load("lenet", MINDIR, engine=engine)
        found = answers(daemon, "lenet", 1)
    with np.load(LENET5 / "reference.npz") as kept:
        wanted = kept["ref_batch1"]
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()
    np.testing.assert_array_equal(found.argmax(1), wanted.argmax(1))
    assert (found.argmax(1) == digits()["label"]).sum() == 350


def test_a_batch_of_32_answers_as_mindspore_does(daemon: Daemon) -> None:
    daemon.client.load("lenet", LENET5 / "lenet5_b32.mindir")
    found = answers(daemon, "lenet", 32)
    with np.load(LENET5 / "reference.npz") as kept:
        wanted = kept["ref"][: len(found)]
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()


def test_weights_of_every_format_are_published_into_a_mindir_model(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.client.load("lenet", MINDIR)
    final = answers(daemon, "lenet", 1)
    npz = tmp_path / "final.npz"
    np.savez(npz, allow_pickle=False, **arrays_of(FINAL))
    for file in (LENET5 / "lenet5.ckpt", FINAL, npz, MINDIR):
        daemon.client.publish("lenet", EARLY)
        daemon.client.publish("lenet", file)
        assert answers(daemon, "lenet", 1).tobytes() == final.tobytes()


def test_a_graph_with_other_outputs_is_not_published(lenet: Daemon) -> None:
    with pytest.raises(MismatchError, match="its outputs are output float32"):
        lenet.client.publish("lenet", MINDIR)


def test_an_unfit_worker_runs_a_mindir_model_by_its_tensors(daemon: Daemon) -> None:
    daemon.client.load("lenet", MINDIR)
    wanted = answers(daemon, "lenet", 1)
    with daemon.attach_here("lenet") as here:
        here._watcher._lease.unfit(1, "a test says so")
        here.wait_for_version(2, timeout_s=20)
        assert here.weights["fc1.weight"].shape == (120, 400)
    assert answers(daemon, "lenet", 1).tobytes() == wanted.tobytes()


def test_a_graph_that_cannot_be_translated_is_refused_and_its_weights_are_not(
    daemon: Daemon,
) -> None:
    file = CASES / "flow" / "assign_is_refused.mindir"
    with pytest.raises(UnsupportedModelError, match=r"Assign at .*--weights-only"):
        daemon.client.load("counter", file)
    assert daemon.client.load("counter", file, weights_only=True) == 1
    with daemon.attach_here("counter") as here:
        assert here.weights["count"].shape == (2, 3)
    assert daemon.client.publish("counter", file) == 2


def test_weights_alone_of_an_onnx_model_too(daemon: Daemon) -> None:
    daemon.client.load("lenet", LENET, weights_only=True)
    daemon.client.publish("lenet", LENET5 / "lenet5.ckpt")
    with daemon.attach_here("lenet") as here:
        wanted = arrays_of(FINAL)["fc1.weight"]
        np.testing.assert_array_equal(here.weights["fc1.weight"], wanted)


@pytest.mark.parametrize(
    "case", ["flow/if_nested", "vision/resnet", "sequence/bert", "recurrent/tagger"]
)
def test_a_shared_model_answers_as_a_private_one(daemon: Daemon, case: str) -> None:
    """Branches, batch normalisation, attention, a recurrent layer: by the daemon's own engine."""
    daemon.client.load("model", CASES / f"{case}.mindir")
    with np.load(CASES / f"{case}.npz") as kept:
        runs = sorted({key.split("/")[0] for key in kept.files})
        with daemon.attach_here("model") as here:
            for run in runs:
                inputs = {n: kept[f"{run}/in/{i}"] for i, n in enumerate(here.inputs)}
                found = here.predict(inputs)
                for index, array in enumerate(found.values()):
                    wanted = kept[f"{run}/out/{index}"]
                    largest = np.abs(wanted).max()
                    assert np.abs(array - wanted).max() <= 2e-4 * largest


def test_the_daemon_reads_no_model_itself(daemon: Daemon) -> None:
    daemon.client.load("lenet", MINDIR)
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "numpy" not in maps
    assert "protobuf" not in maps


def test_a_mindir_model_is_updated_by_the_names_of_its_parameters(daemon: Daemon) -> None:
    x = digits()["x"][:1]
    daemon.client.load("lenet", MINDIR)
    with daemon.attach_here() as here:
        before = here.predict({"x": x})["output"]
        bias = np.arange(10, dtype=np.float32)
        with open_path(MINDIR) as source:
            raw = RawTensors(source, lambda *_: None)
        old = np.frombuffer(raw.bytes_of("fc3.bias"), np.float32)
        daemon.client.update("lenet", {"fc3.bias": old + bias})
        here.wait_for_version(2, timeout_s=10)
        assert np.allclose(here.predict({"x": x})["output"], before + bias, atol=1e-4)


def test_an_update_of_mindir_equals_a_session_of_its_own(daemon: Daemon) -> None:
    x = digits()["x"][:1]
    daemon.client.load("lenet", MINDIR)
    with daemon.attach_here() as here, open_path(MINDIR) as source:
        raw = RawTensors(source, lambda *_: None)
        same = np.frombuffer(raw.bytes_of("fc1.weight"), np.float32)
        daemon.client.update("lenet", {"fc1.weight": same.reshape(raw.specs["fc1.weight"].shape)})
        here.wait_for_version(2, timeout_s=10)
        (private,) = private_session(MINDIR).run([x])
        assert np.array_equal(here.predict({"x": x})["output"], private)
