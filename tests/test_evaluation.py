"""Models measured on labelled sets: the metrics by hand, the rest with the real digits."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command_line import CommandLine
from tests.daemons import DATA, EARLY, Daemon, running_daemon
from weightd import evaluate
from weightd.errors import BadInputError
from weightd.metrics import metric
from weightd.weights.arrays import Array

README = Path(__file__).parent.parent / "README.md"
MINDIR = Path(__file__).parent / "data" / "lenet5"


def value_of(name: str, outputs: Any, labels: Any) -> float:
    judge = metric(name)
    judge.add(np.asarray(outputs), np.asarray(labels))
    return judge.value


def digits(most: int = 360) -> dict[str, Array]:
    """The real test set, as the model takes it."""
    with np.load(DATA / "digits.npz") as kept:
        pixels, labels = kept["images"][:most].astype(np.float32), kept["labels"][:most]
    scaled = (pixels / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    return {"x": scaled[:, None], "label": labels}


# --- metrics -----------------------------------------------------------------------------

SCORES = [[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]]


@pytest.mark.parametrize(
    ("name", "labels", "wanted"),
    [
        ("accuracy", [1, 0, 2, 1], 1.0),
        ("accuracy", [1, 2, 0, 0], 0.25),
        ("top2", [1, 2, 0, 0], 0.75),
        ("top-2", [2, 2, 1, 2], 0.75),
        ("top3", [2, 2, 1, 2], 1.0),
    ],
)
def test_the_share_of_right_answers(name: str, labels: list[int], wanted: float) -> None:
    assert value_of(name, SCORES, labels) == wanted


def test_of_equal_scores_the_first_counts() -> None:
    assert value_of("accuracy", [[1.0, 1.0]], [0]) == 1
    assert value_of("accuracy", [[1.0, 1.0]], [1]) == 0
    assert value_of("top2", [[1.0, 1.0]], [1]) == 1


def test_an_answer_that_is_no_number_is_wrong() -> None:
    assert value_of("accuracy", [[math.nan, 1.0]], [1]) == 0


def test_one_hot_rows_and_columns_are_labels_too() -> None:
    one_hot = np.eye(3)[[1, 0, 2, 1]]
    assert value_of("accuracy", SCORES, one_hot) == 1
    assert value_of("accuracy", SCORES, [[1], [0], [2], [1]]) == 1


def test_the_loss_is_minus_the_log_of_the_softmax() -> None:
    scores = np.array([[1000.0, 0.0], [0.0, 2.0]])
    wanted = (1000.0 + math.log(1 + math.exp(2)) - 2) / 2
    assert value_of("loss", scores, [1, 1]) == pytest.approx(wanted)


def test_distances_are_means_over_all_numbers() -> None:
    assert value_of("mse", [[1.0], [4.0]], [[2.0], [2.0]]) == 2.5
    assert value_of("mae", [[1.0], [4.0]], [[2.0], [2.0]]) == 1.5


def test_a_mean_is_over_all_batches() -> None:
    judge = metric("mae")
    judge.add(np.zeros(1), np.array([4.0]))
    judge.add(np.zeros(3), np.zeros(3))
    assert judge.value == 1


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "message"),
    [
        ("accuracy", SCORES, [0, 1, 2, 3], "from 0 to 3 for 3 classes"),
        ("accuracy", SCORES, [0.0, 1.0, 2.0, 1.0], "give a whole number"),
        ("accuracy", SCORES, np.ones((4, 3)), "not one-hot"),
        ("accuracy", np.zeros((4, 2, 2)), [0] * 4, "not a score for each class"),
        ("top4", SCORES, [0] * 4, "top4 of 3 classes"),
        ("mse", SCORES, [0] * 4, "need one for each number"),
    ],
)
def test_labels_that_do_not_suit_are_refused(
    name: str, outputs: Any, labels: Any, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        value_of(name, outputs, labels)


@pytest.mark.parametrize("name", ["", "top0", "precision", "top"])
def test_an_unknown_metric_is_refused_and_the_known_are_named(name: str) -> None:
    with pytest.raises(BadInputError, match="accuracy, topK"):
        metric(name)


# --- models ------------------------------------------------------------------------------


def test_lenet_is_right_on_97_percent_of_the_digits(lenet: Daemon) -> None:
    seen: list[tuple[int, int]] = []
    with lenet.attach_here() as here:
        found = evaluate(
            here,
            digits(),
            metrics=["accuracy", "top3", "loss"],
            on_batch=lambda done, total: seen.append((done, total)),
        )
    assert found.values["accuracy"] == 350 / 360
    assert found.values["top3"] > found.values["accuracy"]
    assert 0 < found.values["loss"] < 0.2
    assert (found.samples, found.versions) == (360, (1,))
    assert seen[-1] == (360, 360)


def test_the_filling_of_a_fixed_batch_does_not_count() -> None:
    with running_daemon() as daemon:
        daemon.client.load("one", MINDIR / "lenet5.mindir")
        daemon.client.load("many", MINDIR / "lenet5_b32.mindir")
        with daemon.attach_here("one") as one, daemon.attach_here("many") as many:
            data = digits(77)
            singly = evaluate(one, data, metrics=["accuracy", "loss"])
            together = evaluate(many, data, metrics=["accuracy", "loss"])
    assert together.samples == 77
    assert together.values["accuracy"] == singly.values["accuracy"]
    assert together.values["loss"] == pytest.approx(singly.values["loss"], rel=1e-5)


def test_a_version_published_meanwhile_is_told(lenet: Daemon) -> None:
    with lenet.attach_here() as here:

        def publish_once(done: int, _: int) -> None:
            if done == 1:
                lenet.client.publish("lenet", EARLY)
                here.wait_for_version(2, timeout_s=10)

        found = evaluate(here, digits(8), on_batch=publish_once)
    assert found.versions == (1, 2)


def open_model(path: Path) -> Path:
    """y = x @ w + shared, of any batch, with a second output."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("Add", ["p", "shared"], ["y"]),
            helper.make_node("Neg", ["y"], ["z"]),
        ],
        "open",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("shared", TensorProto.FLOAT, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2]),
        ],
        [onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_model_of_any_batch_and_an_input_that_all_share(daemon: Daemon, tmp_path: Path) -> None:
    daemon.client.load("open", open_model(tmp_path / "open.onnx"))
    x = np.random.default_rng(1).standard_normal((70, 2)).astype(np.float32)
    shared = np.array([[1, 2]], np.float32)
    data = {"x": x, "shared": shared, "label": x + shared, "more": np.zeros(3)}
    sizes: list[int] = []
    with daemon.attach_here("open") as here:
        found = evaluate(
            here,
            data,
            metrics=["mae"],
            output="y",
            batch_size=50,
            on_batch=lambda done, _: sizes.append(done),
        )
        assert found.values == {"mae": 0.0}
        assert sizes == [50, 70]
        refusals: tuple[tuple[dict[str, Any], dict[str, Any], str], ...] = (
            ({}, {}, "several outputs, name one: y, z"),
            ({}, {"output": "q"}, "no output 'q'; it has y, z"),
            ({}, {"output": "y", "label": "target"}, "no 'target' for its labels; it has x"),
            ({}, {"output": "y", "batch_size": 0}, "batch_size is 0"),
            ({}, {"output": "y", "metrics": []}, "no metric is named"),
            ({"x": x[:9]}, {"output": "y"}, "does not have the 70 rows"),
            ({"label": np.zeros((0, 2))}, {"output": "y"}, "no samples"),
            ({"label": np.array(["a"] * 70)}, {"output": "y"}, "not of numbers"),
        )
        for changes, options, message in refusals:
            with pytest.raises(BadInputError, match=message):
                evaluate(here, {**data, **changes}, **{"metrics": ["mae"], **options})


def test_a_missing_input_and_another_batch_are_refused(lenet: Daemon) -> None:
    with lenet.attach_here() as here:
        with pytest.raises(BadInputError, match="lacks the input 'x'; it has label"):
            evaluate(here, {"label": np.zeros(3, np.int64)})
        with pytest.raises(BadInputError, match="takes batches of 1 only"):
            evaluate(here, digits(3), batch_size=2)


# --- the command -------------------------------------------------------------------------


def test_the_command_tells_people_and_programs(lenet: Daemon, tmp_path: Path) -> None:
    cli = CommandLine(lenet.runtime_dir)
    path = tmp_path / "digits.npz"
    np.savez(path, allow_pickle=False, **digits())
    metrics = ("--metric", "accuracy", "--metric", "top3")
    found = cli.run("eval", "lenet", "--data", path, *metrics, "--json").json()
    assert found["metrics"]["accuracy"] == 350 / 360
    assert (found["samples"], found["versions"]) == (360, [1])
    shown = cli.run("eval", "lenet", "--data", path)
    assert "lenet version 1: 360 samples" in shown.out
    assert "0.972222" in shown.out


def test_the_example_in_the_readme_works(
    lenet: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```\w*\n(.*?)```", README.read_text(), re.DOTALL)
    [program] = [block for block in blocks if "digits_test.npz" in block and "savez" in block]
    [words] = [
        line.split()[1:]
        for block in blocks
        for line in block.splitlines()
        if line.startswith("weightd eval ")
    ]
    (tmp_path / "weightd").mkdir()
    (tmp_path / "weightd" / "data").symlink_to(DATA)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    found = CommandLine(lenet.runtime_dir).run(*words, "--json").json()
    assert found["samples"] == 360
    assert found["metrics"]["accuracy"] == 350 / 360
    assert found["metrics"]["top5"] > 0.99


def test_a_file_without_labels_is_one_line(lenet: Daemon, tmp_path: Path) -> None:
    cli = CommandLine(lenet.runtime_dir)
    np.savez(tmp_path / "x.npz", x=digits(2)["x"])
    np.save(tmp_path / "x.npy", digits(2)["x"])
    complaint = cli.run("eval", "lenet", "--data", tmp_path / "x.npz").complaint()
    assert "no 'label' for its labels" in complaint
    complaint = cli.run("eval", "lenet", "--data", tmp_path / "x.npy").complaint()
    assert "give an .npz with inputs and labels" in complaint
