"""Loads and publishes that are refused: the model is as it was, and no number is used up."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightd
from tests import nets
from tests.daemons import EARLY, LENET, Daemon, running_daemon
from weightd.errors import (
    BadFileError,
    BadRequestError,
    BusyError,
    MismatchError,
    ModelExistsError,
    UnknownModelError,
    WeightdError,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for all refusals: none of them may leave a trace for the next."""
    with running_daemon() as daemon:
        daemon.load_lenet()
        yield daemon


def missing(arrays: dict[str, Any], _: Path) -> Any:
    del arrays["fc1.bias"]
    return arrays


def extra(arrays: dict[str, Any], _: Path) -> Any:
    return {**arrays, "fc9.bias": np.zeros(1, np.float32)}


def other_dtype(arrays: dict[str, Any], _: Path) -> Any:
    return {**arrays, "fc1.bias": arrays["fc1.bias"].astype(np.float64)}


def other_shape(arrays: dict[str, Any], _: Path) -> Any:
    return {**arrays, "fc1.bias": arrays["fc1.bias"][1:]}


def other_graph(_: dict[str, Any], folder: Path) -> Any:
    return nets.saved(nets.dense(), folder / "other.onnx")


def no_file(_: dict[str, Any], folder: Path) -> Any:
    return folder / "none.safetensors"


def a_folder(_: dict[str, Any], folder: Path) -> Any:
    return folder


def truncated(_: dict[str, Any], folder: Path) -> Any:
    (folder / "cut.safetensors").write_bytes(EARLY.read_bytes()[:-100])
    return folder / "cut.safetensors"


def a_pickle(_: dict[str, Any], folder: Path) -> Any:
    (folder / "model.pt").write_bytes(b"\x80\x04\x95" + bytes(100))
    return folder / "model.pt"


def empty_file(_: dict[str, Any], folder: Path) -> Any:
    (folder / "empty").touch()
    return folder / "empty"


def a_fifo(_: dict[str, Any], folder: Path) -> Any:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


REFUSED: list[tuple[Callable[[dict[str, Any], Path], Any], type[WeightdError], str]] = [
    (missing, MismatchError, r"missing: fc1\.bias"),
    (extra, MismatchError, r"not in the model: fc9\.bias"),
    (other_dtype, MismatchError, r"fc1\.bias \(new: float64, model: float32\)"),
    (other_shape, MismatchError, r"fc1\.bias \(new: \(119,\), model: \(120,\)\)"),
    (other_graph, MismatchError, "do not fit"),
    (no_file, BadFileError, "cannot open .*none.safetensors: No such file"),
    (a_folder, BadFileError, "."),
    (truncated, BadFileError, "truncated"),
    (a_pickle, BadFileError, "pickle"),
    (empty_file, BadFileError, "is empty"),
    (a_fifo, BadFileError, "."),
]


@pytest.mark.parametrize(
    ("make", "error", "text"), REFUSED, ids=lambda v: getattr(v, "__name__", "")
)
def test_what_does_not_fit_changes_nothing(
    shared: Daemon,
    make: Callable[[dict[str, Any], Path], Any],
    error: type[WeightdError],
    text: str,
    tmp_path: Path,
) -> None:
    before = shared.client.status()
    with pytest.raises(error, match=text):
        shared.client.publish("lenet", make(nets.arrays_of(EARLY), tmp_path))
    after = shared.client.status()
    assert (after.models, after.held_nbytes) == (before.models, before.held_nbytes)
    assert not after.staging


def test_a_refusal_consumes_no_number(shared: Daemon, tmp_path: Path) -> None:
    live = shared.client.status().models["lenet"].live
    with pytest.raises(MismatchError):
        shared.client.publish("lenet", missing(nets.arrays_of(EARLY), tmp_path))
    assert shared.client.publish("lenet", EARLY) == live + 1


def test_a_graph_with_other_inputs_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    daemon.client.load("net", nets.saved(nets.dense(), tmp_path / "a.onnx"))
    net = nets.dense()
    net.graph.input[0].name = net.graph.node[0].input[0] = "z"
    with pytest.raises(MismatchError, match="its inputs are z"):
        daemon.client.publish("net", nets.saved(net, tmp_path / "b.onnx"))
    assert daemon.versions("net") == [(1, "LIVE")]


def test_a_file_without_tensors_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    header = b"{}      "
    (tmp_path / "none.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BadFileError, match="tensors"):
        daemon.client.load("none", tmp_path / "none.safetensors")
    with pytest.raises(BadFileError):
        daemon.client.load("none", {})
    assert daemon.client.status().models == {}


def test_a_second_model_of_a_name_is_refused(lenet: Daemon) -> None:
    with pytest.raises(ModelExistsError, match="weightd publish lenet"):
        lenet.load_lenet()
    with pytest.raises(UnknownModelError, match="the daemon holds: lenet"):
        lenet.client.publish("resnet", EARLY)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "x" * 200, "", "a b", "a\0b", "lenet\n"])
def test_a_name_that_is_no_name_is_refused(shared: Daemon, name: str) -> None:
    with pytest.raises(BadRequestError):
        shared.client.load(name, LENET)
    assert list(shared.client.status().models) == ["lenet"]


def test_a_dry_run_says_what_would_happen_and_changes_nothing(lenet: Daemon) -> None:
    assert lenet.client.load("other", LENET, dry_run=True) == 1
    assert lenet.client.publish("lenet", EARLY, dry_run=True) == 2
    assert lenet.versions() == [(1, "LIVE")]
    assert list(lenet.client.status().models) == ["lenet"]
    assert lenet.client.publish("lenet", EARLY) == 2
    with pytest.raises(MismatchError):
        lenet.client.publish("lenet", {"a": np.zeros(1)}, dry_run=True)


def test_two_publishes_of_a_model_at_once_the_second_is_told_to_wait(lenet: Daemon) -> None:
    told: list[WeightdError] = []

    def second(_: object) -> None:
        if not told:
            with weightd.Client(lenet.runtime_dir) as other, pytest.raises(BusyError) as caught:
                other.publish("lenet", EARLY)
            told.append(caught.value)

    assert lenet.client.publish("lenet", EARLY, on_progress=second) == 2
    assert "weightd cancel lenet" in str(told[0])
