"""Workers with another onnxruntime than the daemon's: they get the original tensors and run by the
plain engine, or hear why not. Nobody else is disturbed."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import weightd
from tests import nets, zoo
from tests.daemons import EARLY, FINAL, LENET, Daemon, running_daemon
from tests.helpers import wait_until
from weightd.backends import onnxruntime
from weightd.errors import TensorsNeededError

X = {"x": np.random.default_rng(5).standard_normal((1, 1, 32, 32)).astype(np.float32)}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """From here on this process has another onnxruntime, as far as versions can tell."""
    real = onnxruntime.stamp()
    monkeypatch.setattr(onnxruntime, "stamp", lambda: {**real, "onnxruntime": "0.1"})
    return monkeypatch


def answer(attachment: weightd.Attachment) -> bytes:
    (found,) = attachment.predict(X).values()
    return found.tobytes()


def is_close(one: weightd.Attachment, other: weightd.Attachment) -> bool:
    (a,), (b,) = one.predict(X).values(), other.predict(X).values()
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-4))


def engines(daemon: Daemon) -> list[tuple[str, str]]:
    """What the daemon says its workers run on, where that is not the version's engine."""
    return [(w.engine, w.note) for w in daemon.client.status().workers if w.engine]


def test_an_unfit_worker_is_given_the_tensors_and_the_others_only_a_new_number(
    lenet: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.stamp()
    nbytes = lenet.client.status().models["lenet"].nbytes
    with lenet.attach_here() as usual:
        before = answer(usual)
        monkeypatch.setattr(onnxruntime, "stamp", lambda: {**real, "onnxruntime": "0.1"})
        with lenet.attach_here() as unfit:
            monkeypatch.undo()
            assert (unfit.version, unfit.engine) == (2, "plain")
            assert unfit.engine_note.endswith("and this process has 0.1")
            usual.wait_for_version(2, timeout_s=10)
            assert (usual.engine, usual.engine_note) == ("prepacked", "")
            assert answer(usual) == before
            assert is_close(unfit, usual)
            wait_until(lambda: engines(lenet) == [("plain", unfit.engine_note)])
            model = lenet.client.status().models["lenet"]
            assert (
                "original tensors are kept, until the model is unloaded, for process" in model.note
            )
            assert model.nbytes < 2 * nbytes
    assert "fell-back lenet" in lenet.log()


def test_an_unfit_worker_follows_updates(lenet: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.stamp()
    monkeypatch.setattr(onnxruntime, "stamp", lambda: {**real, "onnxruntime": "0.1"})
    with lenet.attach_here() as unfit:
        old = answer(unfit)
        lenet.client.publish("lenet", EARLY)
        unfit.wait_for_version(3, timeout_s=10)
        assert (unfit.engine, unfit.lag) == ("plain", "")
        assert answer(unfit) != old
        assert "original tensors are kept" in lenet.client.status().models["lenet"].note
        lenet.client.publish("lenet", FINAL)
        unfit.wait_for_version(4, timeout_s=10)
        assert answer(unfit) == old


def test_where_the_tensors_are_kept_nothing_is_staged(elsewhere: pytest.MonkeyPatch) -> None:
    with running_daemon() as daemon:
        daemon.client.load("lenet", LENET, keep_tensors=True)
        with daemon.attach_here() as unfit:
            assert (unfit.version, unfit.engine) == (1, "plain")


def test_an_operator_can_forbid_it(elsewhere: pytest.MonkeyPatch) -> None:
    with running_daemon(keep_tensors_on_demand=False) as daemon:
        daemon.client.load("lenet", LENET)
        with pytest.raises(TensorsNeededError, match=r"--keep-tensors.*keep_tensors_on_demand is"):
            daemon.attach_here()
        assert daemon.versions() == [(1, "LIVE")]


def test_weights_that_came_in_memory_cannot_be_read_again(
    lenet: Daemon, elsewhere: pytest.MonkeyPatch
) -> None:
    lenet.client.publish("lenet", nets.arrays_of(EARLY))
    with pytest.raises(TensorsNeededError, match="did not come from a file"):
        lenet.attach_here()


def test_a_file_that_has_changed_since_is_not_taken_for_the_same(
    elsewhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "lenet.safetensors"
    path.write_bytes(FINAL.read_bytes())
    with running_daemon() as daemon:
        daemon.client.load("lenet", LENET)
        daemon.client.publish("lenet", path)
        path.write_bytes(EARLY.read_bytes())
        with pytest.raises(TensorsNeededError, match="has other weights now than when version 2"):
            daemon.attach_here()
        assert ("LIVE", 2) in [(state, number) for number, state in daemon.versions()]


def test_a_budget_that_has_no_room_for_the_tensors_is_kept(elsewhere: pytest.MonkeyPatch) -> None:
    with running_daemon(memory_budget=400_000) as daemon:
        daemon.client.load("lenet", LENET)
        with pytest.raises(TensorsNeededError, match="memory budget of the daemon"):
            daemon.attach_here()
        assert daemon.versions() == [(1, "LIVE")]


def test_a_change_of_a_few_bytes_is_noticed_too(
    elsewhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "lenet.onnx"
    model = onnx.load(LENET)
    path.write_bytes(model.SerializeToString())
    with running_daemon() as daemon:
        daemon.client.load("lenet", path)
        (bias,) = (t for t in model.graph.initializer if t.name == "fc3.bias")
        bias.raw_data = bytes(len(bias.raw_data))
        path.write_bytes(model.SerializeToString())
        with pytest.raises(TensorsNeededError, match="has other weights now"):
            daemon.attach_here()


def test_what_failed_is_not_staged_again_for_the_same_version(
    lenet: Daemon, elsewhere: pytest.MonkeyPatch
) -> None:
    lenet.client.publish("lenet", nets.arrays_of(EARLY))
    for _ in range(3):
        with pytest.raises(TensorsNeededError, match="did not come from a file"):
            lenet.attach_here()
    assert lenet.versions() == [(1, "HELD"), (2, "LIVE")]


def test_a_version_with_the_same_weights_takes_no_place_of_those_to_roll_back_to(
    lenet: Daemon, elsewhere: pytest.MonkeyPatch
) -> None:
    lenet.client.publish("lenet", EARLY)
    with lenet.attach_here() as unfit:
        assert unfit.version == 3
        wait_until(lambda: lenet.versions() == [(1, "HELD"), (3, "LIVE")])
        assert lenet.client.rollback("lenet") == 1


@pytest.mark.parametrize("name", ["nbits4_int8", "int4"])
def test_few_bits_are_near_enough_on_the_plain_engine(
    name: str, elsewhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (entry,) = (entry for entry in zoo.ZOO if entry.name == name)
    path = nets.saved(zoo.seeds(entry)[0], tmp_path / "m.onnx")
    with running_daemon() as daemon:
        daemon.client.load(name, path)
        with daemon.attach_here(name) as unfit:
            assert unfit.engine == "plain"
            unfit.predict(zoo.feed_of(entry))
