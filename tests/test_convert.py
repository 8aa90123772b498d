"""What files say of themselves, and models as ONNX files."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.command_line import ENVIRON, MODULE
from tests.daemons import DATA, EARLY, FINAL
from tests.data_files import write_renamed
from tests.mindir import opened, private_session
from tests.test_checkpoint import arrays_of
from weightd.errors import BadFileError
from weightd.weights.onnx_write import write_onnx

HERE = Path(__file__).parent / "data"
LENET = HERE / "lenet5" / "lenet5.mindir"
X = np.random.default_rng(4).standard_normal((1, 1, 32, 32)).astype(np.float32)
FLOW = HERE / "mindir" / "flow"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*MODULE, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRON, capture_output=True, text=True, check=False)


def document(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complaint(*arguments: object) -> str:
    done = run(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    return line


# --- inspect -----------------------------------------------------------------------------


def test_a_mindir_file_says_what_it_holds() -> None:
    found = document("inspect", LENET)
    assert (found["format"], found["producer"]) == ("mindir", "MindSpore 2.10.0")
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 1, 32, 32]}]
    assert found["outputs"] == [{"name": "output", "dtype": "float32", "shape": [1, 10]}]
    assert found["operators"]["Conv2D"] == 2
    assert (found["has_graph"], found["obstacle"]) == (True, "")
    assert found["tensors"][0] == {
        "name": "conv1.weight",
        "dtype": "float32",
        "shape": [6, 1, 5, 5],
        "nbytes": 600,
    }


def test_a_graph_that_cannot_be_run_is_shown_all_the_same() -> None:
    found = document("inspect", FLOW / "while_is_refused.mindir")
    assert "calls itself: a while loop" in found["obstacle"]
    assert found["operators"]["Switch"] == 1
    assert [port["name"] for port in found["inputs"]] == ["x", "n"]
    shown = run("inspect", FLOW / "while_is_refused.mindir").stdout
    assert "graph: cannot be run here: while_is_refused.mindir" in shown


@pytest.mark.parametrize(
    ("file", "format_name", "notes"),
    [
        (FINAL, "safetensors", {"format": "ms"}),
        (HERE / "ckpt" / "texts.ckpt", "ckpt", {"net": "LeNet-5é"}),
        (HERE / "ckpt" / "dtypes.npz", "npz", {}),
        (DATA / "lenet5.onnx", "onnx", {"opset": "ai.onnx 11", "ir_version": "4"}),
    ],
)
def test_every_format_is_told(file: Path, format_name: str, notes: dict[str, str]) -> None:
    found = document("inspect", file)
    assert (found["format"], found["notes"]) == (format_name, notes)
    assert found["tensors"]


def test_people_see_tables_and_not_more_than_they_can_read(tmp_path: Path) -> None:
    many = {f"t{number:02}": np.zeros(2, np.float32) for number in range(40)}
    np.savez(tmp_path / "many.npz", allow_pickle=False, **many)
    short, whole = (
        run("inspect", tmp_path / "many.npz"),
        run("inspect", tmp_path / "many.npz", "--all"),
    )
    assert "... and 10 more (--all)" in short.stdout
    assert "t39" not in short.stdout
    assert "t39" in whole.stdout


def test_names_from_a_file_cannot_move_the_cursor(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", allow_pickle=False, **{"a\x1b[2Jb": np.zeros(1)})
    assert "\x1b" not in run("inspect", tmp_path / "evil.npz").stdout


@pytest.mark.parametrize("name", ["missing.mindir", "."])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, name: str) -> None:
    assert "weightd: " in complaint("inspect", tmp_path / name)


# --- convert -----------------------------------------------------------------------------


def test_a_converted_model_says_the_same_to_the_bit(tmp_path: Path) -> None:
    target = tmp_path / "lenet5.onnx"
    assert run("convert", LENET, target).returncode == 0
    onnx.checker.check_model(onnx.load(target), full_check=True)
    assert arrays_of(target).keys() == arrays_of(LENET).keys()
    (wanted,), (found,) = private_session(LENET).run([X]), private_session(target).run([X])
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "case", ["flow/if_nested", "sequence/gpt", "vision/unet", "flow/several_outputs"]
)
def test_any_graph_is_converted(tmp_path: Path, case: str) -> None:
    target = tmp_path / "model.onnx"
    assert run("convert", HERE / "mindir" / f"{case}.mindir", target).returncode == 0
    onnx.checker.check_model(onnx.load(target), full_check=True)
    with np.load(HERE / "mindir" / f"{case}.npz") as kept:
        inputs = [kept[f"0/in/{i}"] for i in range(9) if f"0/in/{i}" in kept]
    wanted = private_session(HERE / "mindir" / f"{case}.mindir").run(inputs)
    found = private_session(target).run(inputs)
    assert [a.tobytes() for a in found] == [a.tobytes() for a in wanted]


def test_other_weights_take_the_place_of_the_models(tmp_path: Path) -> None:
    renamed = write_renamed(EARLY, tmp_path / "early.safetensors", "net.")
    target = tmp_path / "early.onnx"
    assert "do not fit" in complaint("convert", LENET, target, "--weights", renamed)
    assert not target.exists()
    found = document("convert", LENET, target, "--weights", renamed, "--map", "auto")
    assert found["renamed"]["net.fc3.bias"] == "fc3.bias"
    weights, early = arrays_of(target), arrays_of(EARLY)
    assert all(weights[name].tobytes() == early[name].tobytes() for name in early)


def test_nothing_is_replaced_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "kept.onnx"
    target.write_text("mine")
    assert "kept.onnx exists; give another name, or --force" in complaint("convert", LENET, target)
    assert target.read_text() == "mine"
    assert run("convert", LENET, target, "--force").returncode == 0
    assert arrays_of(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FINAL,), "has no graph; convert takes a model"),
        ((FLOW / "while_is_refused.mindir",), "calls itself: a while loop"),
        ((LENET, "--map", "auto"), "--map is about the names of --weights"),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    target = tmp_path / "out.onnx"
    assert message in complaint("convert", arguments[0], target, *arguments[1:])
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_too_large_for_one_file_lie_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "large.onnx"
    with opened(LENET) as source:
        assert source.graph is not None
        write_onnx(source.graph, source, target, lambda *_: None, max_file_nbytes=100_000)
    assert target.stat().st_size < 10_000
    assert (tmp_path / "large.onnx.data").stat().st_size > 240_000
    (wanted,), (found,) = private_session(LENET).run([X]), private_session(target).run([X])
    assert found.tobytes() == wanted.tobytes()


class _StoppedError(Exception):
    """Raised by a report, as Ctrl-C is anywhere."""


def test_what_ends_half_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise _StoppedError

    with opened(LENET) as source:
        assert source.graph is not None
        with pytest.raises(_StoppedError):
            write_onnx(source.graph, source, tmp_path / "x.onnx", stop)
        with pytest.raises(BadFileError, match=r"cannot write .*x\.onnx: No such file"):
            write_onnx(source.graph, source, tmp_path / "none" / "x.onnx", stop)
    assert list(tmp_path.iterdir()) == []
