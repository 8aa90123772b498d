"""Whether a file is the model that is shared."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.daemons import FINAL, LENET, Daemon
from tests.test_readers import open_path
from tests.test_update import MINDIR, head, with_weights
from weightd.backends.origin import check_same_file
from weightd.backends.raw import RawTensors, digest_of
from weightd.errors import MismatchError
from weightd.weights.manifest import ORIGIN, ORIGIN_WEIGHTS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of LeNet-5 that a test may change."""
    return Path(shutil.copy(LENET, tmp_path / "lenet5.onnx"))


@pytest.mark.parametrize("path", [LENET, MINDIR, FINAL])
def test_a_files_digest_is_found_without_keeping_its_tensors(path: Path) -> None:
    with open_path(path) as source:
        assert digest_of(source) == RawTensors(source, lambda *_: None).digest


def test_a_version_tells_whether_a_file_is_the_models(daemon: Daemon, model: Path) -> None:
    daemon.client.load("lenet", model)
    daemon.client.update("lenet", head())
    with daemon.attach_here() as here:
        check_same_file(str(model), here.stamp)  # the file itself
        check_same_file(str(LENET), here.stamp)  # a copy
        with_weights({"fc3.bias": np.zeros(10, np.float32)}, model)
        with pytest.raises(MismatchError, match="is not the model that is shared"):
            check_same_file(str(model), here.stamp)
        with pytest.raises(MismatchError):
            check_same_file(str(MINDIR), here.stamp)


def test_weights_beside_the_file_are_compared_by_their_content(
    daemon: Daemon, tmp_path: Path
) -> None:
    path, weights = tmp_path / "split.onnx", tmp_path / "split.bin"
    net = onnx.load(LENET)
    onnx.save(net, path, save_as_external_data=True, location=weights.name, size_threshold=0)
    daemon.client.load("lenet", path)
    with daemon.attach_here() as here:
        check_same_file(str(path), here.stamp)
        with weights.open("r+b") as file:
            file.write(b"\1")
        with pytest.raises(MismatchError, match="is not the model that is shared"):
            check_same_file(str(path), here.stamp)


def test_a_file_that_was_rewritten_and_given_its_old_time_is_another_one(
    daemon: Daemon, model: Path
) -> None:
    daemon.client.load("lenet", model)
    before = model.stat()
    with_weights({"fc3.bias": np.zeros(10, np.float32)}, model)
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (model.stat().st_ino, model.stat().st_size) == (before.st_ino, before.st_size)
    with daemon.attach_here() as here, pytest.raises(MismatchError):
        check_same_file(str(model), here.stamp)


def test_two_files_that_cannot_be_told_by_name_are_not_taken_for_one(model: Path) -> None:
    with model.open("rb") as nameless:
        model.unlink()
        with pytest.raises(MismatchError):
            check_same_file(f"/proc/self/fd/{nameless.fileno()}", {ORIGIN: "", ORIGIN_WEIGHTS: "0"})
