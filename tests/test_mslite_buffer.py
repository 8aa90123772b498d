"""Model.build_from_buffer by MindSpore Lite's contract: a model that lies in memory."""

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.nets import dense
from weightd import Context, Model, ModelType, Tensor

pytestmark = pytest.mark.usefixtures("own_runtime")

DATA = Path(__file__).parent / "data"
LENET = DATA / "lenet5" / "lenet5.mindir"
SPLIT, WEIGHTS = DATA / "split" / "net_graph.mindir", DATA / "split" / "net_variables" / "data_0"
X = np.arange(32, dtype=np.float32).reshape(2, 16)
MODEL = dense(2).SerializeToString()
MINDIR = ModelType.MINDIR


def answer(model: Model, x: Any = X) -> Any:
    return model.predict([Tensor(x)])[0].get_data_to_numpy()


def test_it_takes_what_upstreams_takes() -> None:
    parameters = inspect.signature(Model().build_from_buffer).parameters
    assert {each.name: each.default for each in parameters.values()} == {
        "model_bytes": inspect.Parameter.empty,
        "weight_bytes": None,
        "model_type": None,
        "context": None,
        "config_path": "",
        "config_dict": None,
    }


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model_bytes": None}, TypeError, "model_bytes must be bytes, but got"),
    ({"model_bytes": b""}, RuntimeError, "build_from_buffer failed, model_bytes is empty."),
    ({"weight_bytes": ""}, TypeError, "weight_bytes must be bytes, but got"),
    ({"model_type": None}, TypeError, "model_type must be ModelType, but got"),
    (
        {"model_type": ModelType.MINDIR_LITE},
        RuntimeError,
        "build_from_buffer failed, model_type should be MINDIR",
    ),
    ({"context": ""}, TypeError, "context must be Context, but got"),
    ({"config_path": 1}, TypeError, "config_path must be str, but got"),
    (
        {"config_path": "none.ini"},
        RuntimeError,
        "build_from_buffer failed, config_path does not exist!",
    ),
    ({"config_dict": 1}, TypeError, "config_dict must be dict, but got"),
    ({"model_bytes": b"0"}, RuntimeError, "build_from_buffer failed! Error is Common error code."),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_of_several_faults_upstreams_first_is_told(number: int) -> None:
    _, kind, text = FAULTS[number]
    arguments: dict[str, Any] = {"model_bytes": MODEL, "model_type": MINDIR}
    for fault, _, _ in reversed(FAULTS[number:]):
        arguments |= fault
    with Model() as model, pytest.raises(kind) as caught:
        model.build_from_buffer(**arguments)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("weights", [None, b"unneeded"])
def test_a_model_in_memory_answers_as_one_in_a_file(weights: bytes | None) -> None:
    x = np.random.default_rng(1).standard_normal((1, 1, 32, 32)).astype(np.float32)
    with Model() as model, Model() as other:
        model.build_from_buffer(LENET.read_bytes(), weights, MINDIR, Context())
        other.build_from_file(str(LENET), MINDIR)
        assert np.array_equal(answer(model, x), answer(other, x))
        assert str(model) == "model_path: ."


def test_weights_that_lie_beside_a_mindir_model_come_in_memory_too() -> None:
    with Model() as model, Model() as other:
        model.build_from_buffer(SPLIT.read_bytes(), WEIGHTS.read_bytes(), MINDIR)
        other.build_from_file(str(SPLIT), MINDIR)
        (tensor,) = model.get_inputs()
        x = np.ones([abs(size) for size in tensor.shape], np.float32)
        assert np.array_equal(answer(model, x), answer(other, x))


def external(folder: Path) -> tuple[bytes, bytes]:
    onnx.save_model(
        dense(2), folder / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    return (folder / "m.onnx").read_bytes(), (folder / "w").read_bytes()


def test_weights_in_memory_can_be_replaced_in_part(tmp_path: Path) -> None:
    model_bytes, weight_bytes = external(tmp_path)
    (tmp_path / "names").write_text("b\n")
    listed = {"ascend_context": {"variable_weights_file": str(tmp_path / "names")}}
    with Model() as model:
        model.build_from_buffer(model_bytes, weight_bytes, MINDIR, config_dict=listed)
        model.update_weights([[Tensor(np.zeros(16, np.float32))]])
        assert np.allclose(answer(model), 2 * X.sum(1, keepdims=True))


@pytest.mark.parametrize("weights", [None, b"", b"too few"])
def test_weights_that_are_missing_are_an_error(tmp_path: Path, weights: bytes | None) -> None:
    why = "Common error code." if weights is None else "func_graph is nullptr, failed to load Mind"
    with Model() as model, pytest.raises(RuntimeError) as caught:
        model.build_from_buffer(external(tmp_path)[0], weights, MINDIR)
    assert str(caught.value).startswith(f"build_from_buffer failed! Error is {why}")


def test_what_the_maker_noted_is_told_of_a_model_in_memory_too() -> None:
    net = dense()
    net.metadata_props.add(key="author", value="somebody")
    with Model() as model:
        model.build_from_buffer(net.SerializeToString(), model_type=MINDIR)
        assert model.get_model_info("user_info").endswith("author: somebody")


def test_a_model_in_memory_can_be_shared(tmp_path: Path) -> None:
    shared = {"pids": str(os.getpid()), "weightd": {"daemon": "never"}}
    with Model() as model, Model() as other:
        model.build_from_buffer(MODEL, None, MINDIR, config_dict=shared)
        handle = model.get_model_info("shareable_weight_mem_handle")
        other.build_from_buffer(MODEL, None, MINDIR, config_dict={"shared_mem_handle": handle})
        assert np.array_equal(answer(model), answer(other))
    with Model() as model, pytest.raises(RuntimeError, match="beside the model are not shared"):
        model.build_from_buffer(*external(tmp_path), MINDIR, config_dict=shared)


def test_a_model_is_built_once_from_whatever() -> None:
    with Model() as model:
        model.build_from_buffer(MODEL, model_type=MINDIR)
        with pytest.raises(RuntimeError, match="called Build!"):
            model.build_from_buffer(MODEL, model_type=MINDIR)
        with pytest.raises(RuntimeError, match="called Build!"):
            model.build_from_file(str(LENET), MINDIR)


def test_closing_lets_go_of_the_memory() -> None:
    def held() -> int:
        found = 0
        for fd in os.listdir("/proc/self/fd"):
            try:
                found += "weightd:buffer" in os.readlink(f"/proc/self/fd/{fd}")
            except FileNotFoundError:  # the listing's own
                continue
        return found

    model = Model()
    model.build_from_buffer(MODEL, model_type=MINDIR)
    assert held()
    model.close()
    assert not held()
