"""ModelGroup by MindSpore Lite's contract, and what its models really share."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import weightd as mslite
from tests import nets
from tests.daemons import LENET
from weightd import Context, Model, ModelGroup, ModelGroupFlag, ModelType, Tensor
from weightd.demo import digits

X = np.random.default_rng(7).standard_normal((1, 1, 32, 32)).astype(np.float32)
WEIGHT, WORKSPACE, BOTH = (
    ModelGroupFlag.SHARE_WEIGHT,
    ModelGroupFlag.SHARE_WORKSPACE,
    ModelGroupFlag.SHARE_WEIGHT_WORKSPACE,
)

pytestmark = pytest.mark.usefixtures("own_runtime")


@pytest.fixture
def models() -> Iterator[list[Model]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Model()) for _ in range(3)]


def test_the_flags_have_upstreams_numbers() -> None:
    assert {flag.name: flag.value for flag in ModelGroupFlag} == {
        "SHARE_WEIGHT": 1,
        "SHARE_WORKSPACE": 2,
        "SHARE_WEIGHT_WORKSPACE": 3,
    }


@pytest.mark.parametrize("flags", [1, "SHARE_WEIGHT", None, ModelType.MINDIR])
def test_flags_of_another_kind_are_refused(flags: object) -> None:
    with pytest.raises(RuntimeError, match=r"Parameter flags should be ModelGroupFlag\.SHARE_WORK"):
        ModelGroup(flags)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[ModelGroupFlag, Callable[[], object], type[Exception], str]] = {
    "no list": (WORKSPACE, lambda: "a", TypeError, "models must be list/tuple, but got"),
    "nothing": (WORKSPACE, list, RuntimeError, "models cannot be empty"),
    "numbers": (WORKSPACE, lambda: [1], TypeError, "models element must be all str or Model"),
    "mixed": (WORKSPACE, lambda: ["a", Model()], TypeError, "models element must be all str or"),
    "mixed the other way": (BOTH, lambda: [Model(), "a"], TypeError, "at index 1"),
    "paths without workspace": (WEIGHT, lambda: ["a"], RuntimeError, "ModelGroup's add model fail"),
    "models without weights": (WORKSPACE, lambda: [Model()], RuntimeError, "add model failed."),
    "twice the same": (WEIGHT, lambda: [Model()] * 2, RuntimeError, "in one group only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_added_is_refused(case: str) -> None:
    flags, models, kind, text = REFUSED[case]
    with pytest.raises(kind) as caught:
        ModelGroup(flags).add_model(models())  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_a_model_is_in_one_group_only() -> None:
    model = Model()
    ModelGroup(WEIGHT).add_model([model])
    with pytest.raises(RuntimeError, match="in one group only"):
        ModelGroup(BOTH).add_model((model,))


def test_the_workspace_is_prepared_with_the_right_arguments_only() -> None:
    group = ModelGroup()
    group.add_model([str(LENET)])
    group.cal_max_size_of_workspace(ModelType.MINDIR, Context())
    with pytest.raises(TypeError, match="context must be Context"):
        group.cal_max_size_of_workspace("MINDIR", "context")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model_type must be ModelType"):
        group.cal_max_size_of_workspace("MINDIR", Context())  # type: ignore[arg-type]
    group.add_model(["none.mindir"])
    with pytest.raises(RuntimeError, match=r"cal max size of workspace failed.*none\.mindir"):
        group.cal_max_size_of_workspace(ModelType.MINDIR, Context())
    with pytest.raises(RuntimeError, match="shares no workspace"):
        ModelGroup(WEIGHT).cal_max_size_of_workspace(ModelType.MINDIR, Context())


def built(model: Model, path: Path = LENET) -> Model:
    model.build_from_file(str(path), ModelType.MINDIR)
    return model


def answer(model: Model) -> np.ndarray:
    (output,) = model.predict([Tensor(X)])
    return output.get_data_to_numpy()


@pytest.mark.parametrize("flags", [WEIGHT, BOTH])
def test_models_of_one_file_share_its_weights(models: list[Model], flags: ModelGroupFlag) -> None:
    group = ModelGroup(flags)
    group.add_model(models)
    handles = {built(model).get_model_info("shareable_weight_mem_handle") for model in models}
    assert len(handles) == 1
    private = nets.privately(LENET, {"x": X})["12"]
    for model in models:
        assert np.allclose(answer(model), private, atol=1e-4)


def test_the_first_one_may_go_before_the_others(models: list[Model]) -> None:
    group = ModelGroup(WEIGHT)
    group.add_model(models)
    first, second, third = models
    built(first)
    built(second)
    first.close()
    assert answer(second).shape == (1, 10)
    built(third)
    second.close()
    assert answer(third).shape == (1, 10)


def test_a_file_that_was_rewritten_is_shared_anew(models: list[Model], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copyfile(LENET, path)
    group = ModelGroup(WEIGHT)
    group.add_model(models)
    before = answer(built(models[0], path))
    digits.write_early_model(path)
    after = answer(built(models[1], path))
    assert np.allclose(after, nets.privately(path, {"x": X})["12"], atol=1e-4)
    assert np.array_equal(answer(models[0]), before)
    assert not np.allclose(after, before, atol=1e-4)


def test_models_of_other_files_have_weights_of_their_own(
    models: list[Model], tmp_path: Path
) -> None:
    shutil.copy(LENET, tmp_path / "copy.onnx")
    group = ModelGroup(WEIGHT)
    group.add_model(models[:2])
    handles = {
        built(model, path).get_model_info("shareable_weight_mem_handle")
        for model, path in zip(models, (LENET, tmp_path / "copy.onnx"), strict=False)
    }
    assert len(handles) == 2


WORKING = """
import sys
import numpy as np
import weightd as mslite
from weightd.ipc.linux import private_memory
path = sys.argv[1]
if "shared" in sys.argv:
    mslite.ModelGroup().add_model([path])
context = mslite.Context()
context.cpu.thread_num = 1
models = [mslite.Model() for _ in range(3)]
x = mslite.Tensor(np.zeros((2048, 2048), np.float32))
for model in models:
    model.build_from_file(path, mslite.ModelType.MINDIR, context)
    model.predict([x])
print(private_memory()["Private_Dirty"])
"""


def test_models_that_share_a_workspace_take_the_memory_of_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", [a], [b]) for a, b in ("xh", "hi", "ij")]
    nodes.append(helper.make_node("ReduceSum", ["j"], ["y"], keepdims=0))
    ports = {"inputs": [nets.port("x", [2048, 2048])], "outputs": [nets.port("y", [])]}
    path = nets.saved(nets.model(nodes, **ports), tmp_path / "working.onnx")

    def taken(*words: str) -> int:
        command = [sys.executable, "-c", WORKING, str(path), *words]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert taken() - taken("shared") > 48 * 2**20  # each needs 32 MiB
    assert mslite.ModelGroup is ModelGroup
