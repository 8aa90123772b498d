"""What a Model tells of itself by MindSpore Lite's contract: inputs, outputs and get_model_info."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.nets import dense, model, port, saved
from weightd import DataType, Format, Model, ModelType, Tensor, TensorMeta

pytestmark = pytest.mark.usefixtures("own_runtime")

MINDIR = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(), tmp_path / "model.mindir")


@pytest.fixture
def built(file: Path) -> Iterator[Model]:
    with Model() as built:
        built.build_from_file(str(file), ModelType.MINDIR)
        yield built


# --- inputs and outputs ------------------------------------------------------------------------


def test_before_it_is_built_a_model_has_no_inputs_and_outputs() -> None:
    assert Model().get_inputs() == []
    assert Model().get_outputs() == ()


def test_inputs_are_tensors_without_data(built: Model) -> None:
    (tensor,) = built.get_inputs()
    assert isinstance(tensor, Tensor)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("x", [-1, 16], DataType.FLOAT32)
    assert (tensor.element_num, tensor.data_size) == (0, 0)
    assert tensor.format is Format.NCHW


def test_each_call_gives_inputs_of_its_own(built: Model) -> None:
    built.get_inputs()[0].shape = [3, 16]
    assert built.get_inputs()[0].shape == [-1, 16]


def test_outputs_are_a_tuple_of_descriptions(built: Model) -> None:
    outputs = built.get_outputs()
    assert isinstance(outputs, tuple)
    (meta,) = outputs
    assert isinstance(meta, TensorMeta)
    assert (meta.name, meta.shape, meta.dtype) == ("y", [-1, 16], DataType.FLOAT32)


def test_a_fixed_output_says_its_size() -> None:
    with Model() as model:
        model.build_from_file(str(MINDIR), ModelType.MINDIR)
        (meta,) = model.get_outputs()
    assert (meta.shape, meta.element_num, meta.data_size) == ([1, 10], 10, 40)


# --- what there is to know -----------------------------------------------------------------------


@pytest.mark.parametrize("key", [1, None, b"input_shape"])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match="key must be str"):
        Model().get_model_info(key)


def test_a_key_that_was_forgotten_is_refused_in_the_same_words() -> None:
    with pytest.raises(TypeError, match="key must be str"):
        Model().get_model_info()


@pytest.mark.parametrize(
    "key", ["input_shape", "user_info", "shareable_weight_mem_handle", "", "?"]
)
def test_what_is_not_known_is_an_empty_text_and_a_warning(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Model().get_model_info(key) == ""
    assert caplog.records


def test_a_private_model_has_no_handle(built: Model) -> None:
    assert built.get_model_info("shareable_weight_mem_handle") == ""
    assert built.get_model_info("dynamic_dims") == ""


def test_the_input_shapes_are_text(built: Model) -> None:
    assert built.get_model_info("input_shape") == "x:-1,16"
    with Model() as model:
        model.build_from_file(str(MINDIR), ModelType.MINDIR)
        assert model.get_model_info("input_shape") == "x:1,1,32,32"


def test_several_inputs_stand_one_after_the_other(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    ports = {"inputs": [port("a", [1]), port("b", ["n", 2])], "outputs": [port("c", ["n", 2])]}
    with Model() as built:
        built.build_from_file(str(saved(model([node], **ports), tmp_path / "m")), ModelType.MINDIR)
        assert built.get_model_info("input_shape") == "a:1;b:-1,2"


def test_the_own_pid_is_told_before_a_build_and_after(built: Model) -> None:
    assert Model().get_model_info("current_pid") == str(os.getpid())
    assert built.get_model_info("current_pid") == str(os.getpid())


def test_what_the_maker_noted_is_told(tmp_path: Path) -> None:
    net = dense()
    net.metadata_props.add(key="author", value="somebody")
    net.metadata_props.add(key="task", value="digits")
    with Model() as model:
        model.build_from_file(str(saved(net, tmp_path / "m.onnx")), ModelType.MINDIR)
        assert model.get_model_info("user_info").endswith("author: somebody\ntask: digits")


def test_the_dynamic_dims_may_stand_in_the_file(tmp_path: Path) -> None:
    net = dense()
    net.metadata_props.add(key="dynamic_dims", value="1;4")
    with Model() as model:
        model.build_from_file(str(saved(net, tmp_path / "m.mindir")), ModelType.MINDIR)
        assert model.get_model_info("dynamic_dims") == "1;4"


def test_what_is_told_is_of_the_file_that_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for author in ("first", "second"):
        net = dense()
        net.metadata_props.add(key="author", value=author)
        saved(net, tmp_path / author)
    monkeypatch.chdir(tmp_path)
    with Model() as model:
        model.build_from_file("first", ModelType.MINDIR)
        with pytest.raises(RuntimeError, match="called Build!"):
            model.build_from_file("second", ModelType.MINDIR)
        monkeypatch.chdir("/")
        assert model.get_model_info("user_info").endswith("author: first")


def test_the_notes_of_a_file_that_went_are_an_empty_text(built: Model, file: Path) -> None:
    file.unlink()
    assert built.get_model_info("user_info") == ""
