"""Names of a file that become a model's by explicit rules."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command_line import CommandLine
from tests.daemons import EARLY, FINAL, Daemon
from tests.data_files import write_renamed
from tests.test_checkpoint import arrays_of
from weightd.errors import BadRequestError, MismatchError
from weightd.weights.arrays import Array
from weightd.weights.names import mapped

NAMES = ["a.weight", "a.bias", "b.weight"]


# --- rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (["a.weight=w"], {"a.weight": "w", "a.bias": "a.bias", "b.weight": "b.weight"}),
        (["a.*=*"], {"a.weight": "weight", "a.bias": "bias", "b.weight": "b.weight"}),
        (["*=net.*"], {n: f"net.{n}" for n in NAMES}),
        (["*.weight=*.gamma"], {"a.weight": "a.gamma", "a.bias": "a.bias", "b.weight": "b.gamma"}),
        (["b.*="], {"a.weight": "a.weight", "a.bias": "a.bias", "b.weight": ""}),
        (["a.bias=x", "a.*=y.*"], {"a.weight": "y.weight", "a.bias": "x", "b.weight": "b.weight"}),
    ],
)
def test_the_first_rule_that_fits_a_name_counts(rules: list[str], wanted: dict[str, str]) -> None:
    assert mapped(rules, NAMES, []) == wanted


@pytest.mark.parametrize("rule", ["", "a", "=b", "a.*=b", "a=b.*", "*.*=*.*", "a*b*=c"])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(BadRequestError, match="is no rule: OLD=NEW"):
        mapped([rule], NAMES, NAMES)


def test_a_rule_that_fits_nothing_is_a_mistake() -> None:
    with pytest.raises(MismatchError, match=r"the rule c\.\*=\* fits none of the names: a.weight"):
        mapped(["c.*=*"], NAMES, NAMES)


def test_a_rule_behind_one_that_takes_all_of_its_names_is_told_so() -> None:
    with pytest.raises(MismatchError, match=r"a.weight=x comes too late: the rules before it"):
        mapped(["a.*=*", "a.weight=x"], NAMES, NAMES)


def test_a_rule_that_renames_never_leaves_out() -> None:
    assert mapped(["a*=*"], ["a", "ab"], []) == {"a": "a", "ab": "b"}


def test_two_tensors_never_become_one() -> None:
    with pytest.raises(MismatchError, match="would be called 'x'"):
        mapped(["a.weight=x", "b.weight=x"], NAMES, NAMES)


# --- auto --------------------------------------------------------------------------------

TORCH = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "fc.weight", "e.weight"]
MINDSPORE = ["bn.gamma", "bn.beta", "bn.moving_mean", "bn.moving_variance", "fc.weight"]
MINDSPORE += ["e.embedding_table"]


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.net."])
@pytest.mark.parametrize("is_added", [False, True])
def test_auto_finds_a_prefix(prefix: str, is_added: bool) -> None:
    longer = [f"{prefix}{name}" for name in NAMES]
    names, wanted = (NAMES, longer) if is_added else (longer, NAMES)
    assert mapped(["auto"], names, wanted) == dict(zip(names, wanted, strict=True))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_auto_knows_the_words_of_both_frameworks(prefix: str) -> None:
    torch = [prefix + name for name in TORCH]
    assert mapped(["auto"], torch, MINDSPORE) == dict(zip(torch, MINDSPORE, strict=True))
    assert mapped(["auto"], MINDSPORE, torch) == dict(zip(MINDSPORE, torch, strict=True))


def test_auto_leaves_out_what_pytorch_counts() -> None:
    names = [*TORCH, "bn.num_batches_tracked"]
    assert mapped(["auto"], names, MINDSPORE)["bn.num_batches_tracked"] == ""


@pytest.mark.parametrize("prefix", ["", "module."])
def test_auto_keeps_what_pytorch_counts_where_the_model_has_it(prefix: str) -> None:
    wanted = [*TORCH, "bn.num_batches_tracked"]
    names = [prefix + name for name in wanted]
    assert mapped(["auto"], names, wanted) == dict(zip(names, wanted, strict=True))


def test_auto_has_nothing_to_do_where_rules_take_every_name() -> None:
    assert mapped(["net.*=*", "auto"], ["net.w"], ["w"]) == {"net.w": "w"}


def test_auto_takes_what_rules_leave() -> None:
    names = ["net.w", "net.b", "moments.w", "learning_rate"]
    found = mapped(["moments.*=", "learning_rate=", "auto"], names, ["w", "b"])
    assert found == {"net.w": "w", "net.b": "b", "moments.w": "", "learning_rate": ""}


@pytest.mark.parametrize(("old", "new"), [("net.w", "w"), ("w", "net.w")])
def test_auto_may_miss_what_is_optional(old: str, new: str) -> None:
    assert mapped(["auto"], [old], [new, "shape"], ["shape"]) == {old: new}


def test_auto_takes_none_of_two_prefixes_that_fit() -> None:
    names, wanted = ["x.x.w", "x.x.x.w"], ["w", "x.w", "x.x.w"]
    with pytest.raises(MismatchError, match=r"in several ways: x.x.w could be x.w or w"):
        mapped(["auto"], names, wanted, ["w", "x.x.w"])


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["net.w", "other"], ["w"]),
        (["net.w"], ["w", "b"]),
        (["x.weight"], ["x.gamma", "x.embedding_table"]),
        (["x.gamma", "x.weight"], ["y.weight", "y.gamma"]),
        (["x.gamma", "x.weight"], ["x.weight", "x.embedding_table"]),
        ([], ["w"]),
    ],
)
def test_auto_never_guesses(names: list[str], wanted: list[str]) -> None:
    with pytest.raises(MismatchError, match=r"auto finds no names that fit.*--map 'moments"):
        mapped(["auto"], names, wanted)


def test_a_hundred_thousand_names_that_do_not_fit_are_refused_at_once() -> None:
    count = 100_000
    start_s = time.process_time()
    with pytest.raises(MismatchError, match="and 99995 more"):
        mapped(["auto"], [f"a.{i}.w" for i in range(count)], [f"b.{i}.x" for i in range(count)])
    assert time.process_time() - start_s < 5


# --- through a daemon --------------------------------------------------------------------

X = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)


def weights_of(path: Path, prefix: str = "") -> dict[str, Array]:
    return {prefix + name: array for name, array in arrays_of(path).items()}


def norm_weights(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    names = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    return {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in names}


def norm_model(path: Path, weights: dict[str, Array]) -> Path:
    """A batch normalisation with weights that PyTorch's exporter would name so."""
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *weights], ["y"])],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def predicted(daemon: Daemon, name: str, x: Array = X) -> Any:
    with daemon.attach_here(name) as here:
        (answer,) = here.predict(dict.fromkeys(here.inputs, x)).values()
        return answer.copy()


def test_mindspores_words_are_published_into_a_model_with_pytorchs(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.client.load("norm", norm_model(tmp_path / "old.onnx", norm_weights(1)))
    daemon.client.load("wanted", norm_model(tmp_path / "new.onnx", norm_weights(2)))
    new = dict(zip(MINDSPORE[:4], norm_weights(2).values(), strict=True))
    with pytest.raises(MismatchError, match="see it with --map auto --dry-run"):
        daemon.client.publish("norm", new)
    seen: dict[str, str] = {}
    daemon.client.publish("norm", new, names=["auto"], on_renamed=seen.update)
    assert seen == dict(zip(MINDSPORE[:4], TORCH[:4], strict=True))
    assert predicted(daemon, "norm").tobytes() == predicted(daemon, "wanted").tobytes()


@pytest.mark.parametrize(("prefix", "rules"), [("", []), ("module.", ["auto"])])
def test_what_no_name_would_mend_is_refused_without_the_hint(
    lenet: Daemon, prefix: str, rules: list[str]
) -> None:
    weights = weights_of(EARLY, prefix) | {f"{prefix}fc3.bias": np.zeros(11, np.float32)}
    with pytest.raises(MismatchError, match=r"other shape: fc3.bias \(new: \(11,\)") as refusal:
        lenet.client.publish("lenet", weights, names=rules)
    assert "--map" not in str(refusal.value)


def test_a_refusal_that_names_long_names_arrives(lenet: Daemon) -> None:
    """A report of the stager's is one packet, and such a name takes three bytes a sign."""
    names = {f"{'名' * 300}{number}": np.zeros(1, np.float32) for number in range(6)}
    with pytest.raises(MismatchError, match="名"):
        lenet.client.publish("lenet", names)


def test_a_training_checkpoint_is_published_without_its_optimizer(lenet: Daemon) -> None:
    final = weights_of(FINAL)
    training = weights_of(EARLY) | {f"moments.{n}": a for n, a in final.items()}
    training["learning_rate"] = np.array(0.1, np.float32)
    with pytest.raises(MismatchError, match="not in the model: moments"):
        lenet.client.publish("lenet", training)
    rules = ["moments.*=", "learning_rate="]
    assert lenet.client.publish("lenet", training, names=rules) == 2


def test_a_dry_run_shows_the_mapping_and_changes_nothing(lenet: Daemon) -> None:
    seen: dict[str, str] = {}
    renamed = weights_of(EARLY, "module.")
    lenet.client.publish("lenet", renamed, names=["auto"], dry_run=True, on_renamed=seen.update)
    assert seen["module.conv1.weight"] == "conv1.weight"
    assert lenet.versions() == [(1, "LIVE")]


def test_an_unfit_worker_gets_a_renamed_version_once_more(daemon: Daemon, tmp_path: Path) -> None:
    """The file is staged again by the same rules, for a worker with another onnxruntime."""
    daemon.load_lenet()
    path = write_renamed(EARLY, tmp_path / "renamed.safetensors", "module.")
    daemon.client.publish("lenet", path, names=["auto"])
    wanted = predicted(daemon, "lenet", X1)
    with daemon.attach_here("lenet") as here:
        here._watcher._lease.unfit(2, "a test says so")
        here.wait_for_version(3, timeout_s=20)
        assert here.weights["conv1.weight"].shape == (6, 1, 5, 5)
    assert predicted(daemon, "lenet", X1).tobytes() == wanted.tobytes()


X1 = np.random.default_rng(5).standard_normal((1, 1, 32, 32)).astype(np.float32)


def test_weights_without_a_graph_are_renamed_too(daemon: Daemon) -> None:
    daemon.client.load("words", {"table": np.zeros(3, np.float32)})
    daemon.client.publish("words", {"net.table": np.ones(3, np.float32)}, names=["net.*=*"])
    daemon.client.allow("words", os.getpid())
    with daemon.attach_here("words") as here:
        assert here.weights["table"].tolist() == [1, 1, 1]


def test_the_command_prints_the_mapping(lenet: Daemon, tmp_path: Path) -> None:
    cli = CommandLine(lenet.runtime_dir)
    path = write_renamed(EARLY, tmp_path / "renamed.safetensors", "module.")
    shown = cli.run("publish", "lenet", path, "--map", "auto", "--dry-run")
    assert shown.status == 0, shown.err
    assert "module.conv1.weight" in shown.out
    assert "0 names are the same in both" in shown.out
    found = cli.run("publish", "lenet", path, "--map", "module.*=*", "--json").json()
    assert found["renamed"]["module.fc3.bias"] == "fc3.bias"
    assert (found["left_out"], found["version"]) == ([], 2)
    complaint = cli.run("publish", "lenet", path, "--map", "nothing").complaint()
    assert complaint.startswith("'nothing' is no rule")
