"""Model.resize by MindSpore Lite's contract: what it takes, what it changes, what is wrong."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.nets import dense, model, port, saved
from weightd import Model, ModelType, Tensor

MINDIR = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"


def opened(path: Path) -> Model:
    """The caller closes it."""
    built = Model()
    built.build_from_file(str(path), ModelType.MINDIR)
    return built


def two_inputs(a: list[int | str], b: list[int | str], y: list[int | str]) -> onnx.ModelProto:
    """y = a + b."""
    node = helper.make_node("Add", ["a", "b"], ["y"])
    return model([node], inputs=[port("a", a), port("b", b)], outputs=[port("y", y)])


@pytest.fixture
def open_one(tmp_path: Path) -> Iterator[Model]:
    """x float32[n, 16] to y float32[n, 16]."""
    with opened(saved(dense(), tmp_path / "open.mindir")) as built:
        yield built


@pytest.fixture
def fixed() -> Iterator[Model]:
    """LeNet-5: x float32[1, 1, 32, 32], of which the graph fixes all but the first."""
    with opened(MINDIR) as built:
        yield built


def shapes(built: Model) -> tuple[list[list[int]], list[list[int]]]:
    return [t.shape for t in built.get_inputs()], [t.shape for t in built.get_outputs()]


# --- what it changes ---------------------------------------------------------------------------


def test_the_tensors_that_came_the_inputs_and_the_outputs_have_the_new_shapes(
    open_one: Model,
) -> None:
    inputs = open_one.get_inputs()
    assert open_one.resize(inputs, [[3, 16]]) is None  # type: ignore[func-returns-value]
    assert inputs[0].shape == [3, 16]
    assert shapes(open_one) == ([[3, 16]], [[3, 16]])
    (meta,) = open_one.get_outputs()
    assert (meta.element_num, meta.data_size) == (48, 192)


def test_after_a_resize_arrays_are_taken_as_they_come(open_one: Model) -> None:
    open_one.resize(open_one.get_inputs(), [[2, 16]])
    (output,) = open_one.predict([np.ones((2, 16), np.float32)])
    assert output.shape == [2, 16]
    with pytest.raises(RuntimeError, match="data size not equal!"):
        open_one.predict([np.ones((3, 16), np.float32)])


def test_data_that_were_set_before_must_be_set_again(open_one: Model) -> None:
    inputs = open_one.get_inputs()
    open_one.resize(inputs, [[2, 16]])
    inputs[0].set_data_from_numpy(np.ones((2, 16), np.float32))
    open_one.resize(inputs, [[3, 16]])
    with pytest.raises(RuntimeError, match="predict failed!"):
        open_one.predict(inputs)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples_are_as_good(open_one: Model, kind: Any) -> None:
    open_one.resize(kind(open_one.get_inputs()), kind([kind([4, 16])]))
    assert shapes(open_one)[0] == [[4, 16]]


def test_a_model_is_resized_as_often_as_one_likes(open_one: Model) -> None:
    for size in (1, 5, 2, 5, 1):
        inputs = open_one.get_inputs()
        open_one.resize(inputs, [[size, 16]])
        inputs[0].set_data_from_numpy(np.ones((size, 16), np.float32))
        (output,) = open_one.predict(inputs)
        assert output.shape == [size, 16] == open_one.get_outputs()[0].shape


def test_other_tensors_than_the_models_own_are_resized_with_it(open_one: Model) -> None:
    mine = Tensor(np.zeros((9, 16), np.float32))
    open_one.resize([mine], [[2, 16]])
    assert mine.shape == [2, 16]
    assert shapes(open_one)[0] == [[2, 16]]


def test_a_size_that_the_file_fixes_changes_where_the_graph_goes_along(fixed: Model) -> None:
    x = np.random.default_rng(1).standard_normal((3, 1, 32, 32)).astype(np.float32)
    singly = [fixed.predict([row[np.newaxis]])[0].get_data_to_numpy() for row in x]
    inputs = fixed.get_inputs()
    fixed.resize(inputs, [[3, 1, 32, 32]])
    assert shapes(fixed) == ([[3, 1, 32, 32]], [[3, 10]])
    (output,) = fixed.predict([x])
    assert np.allclose(output.get_data_to_numpy(), np.concatenate(singly), atol=1e-4)
    fixed.resize(inputs, [[1, 1, 32, 32]])
    assert np.allclose(fixed.predict([x[:1]])[0].get_data_to_numpy(), singly[0], atol=1e-4)


def test_a_bool_is_an_int_as_upstream_has_it(open_one: Model) -> None:
    open_one.resize(open_one.get_inputs(), [[True, 16]])
    assert shapes(open_one)[0] == [[1, 16]]


def test_a_model_that_divides_by_an_input_can_be_resized(tmp_path: Path) -> None:
    node = helper.make_node("Div", ["a", "b"], ["y"])
    ports = [port(name, ["n"], TensorProto.INT32) for name in "aby"]
    net = model([node], inputs=ports[:2], outputs=ports[2:])
    with opened(saved(net, tmp_path / "div.mindir")) as built:
        built.resize(built.get_inputs(), [[3], [3]])
        assert shapes(built) == ([[3], [3]], [[3]])


# --- what is wrong -----------------------------------------------------------------------------

FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"inputs": "a tensor"}, TypeError, "inputs must be list or tuple of Lite Tensor, but got"),
    ({"dims": 7}, TypeError, "dims must be list or tuple of shape, but got"),
    ({"inputs": [1, 2]}, TypeError, "inputs element must be Tensor, but got"),
    ({"dims": ["[3, 16]"]}, TypeError, "dims element must be list or tuple of int, but got"),
    ({"dims": [[3, "16"]]}, TypeError, "dims element's element must be int, but got"),
    ({"dims": [[3, 16], [3, 16]]}, ValueError, "inputs' size does not match dims' size, but got"),
    ({"dims": [[3, -1]]}, RuntimeError, "resize failed! Error is Invalid shape!"),
]
MORE: dict[str, tuple[list[Any], type[Exception], str]] = {
    "numpy's ints": ([[np.int64(3), 16]], TypeError, "dims element's element must be int"),
    "an array": ([np.array([3, 16])], TypeError, "dims element must be list or tuple of int"),
    "a float": ([[3.0, 16]], TypeError, "dims element's element must be int"),
    "nothing": ([None], TypeError, "dims element must be list or tuple of int"),
    "zero": ([[0, 16]], RuntimeError, "resize failed! Error is Invalid shape!"),
    "too few": ([[16]], RuntimeError, "resize failed! Error is Invalid shape!"),
    "too many": ([[3, 16, 1]], RuntimeError, "resize failed! Error is Invalid shape!"),
    "huge": ([[2**62, 16]], RuntimeError, "resize failed! Error is"),
    "beyond": ([[2**80, 16]], RuntimeError, "resize failed! Error is"),
    "what the file fixes": ([[3, 17]], RuntimeError, "resize failed! Error is The given input"),
}


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_of_several_faults_upstreams_first_is_told(open_one: Model, number: int) -> None:
    _, kind, text = FAULTS[number]
    arguments: dict[str, Any] = {"inputs": open_one.get_inputs(), "dims": [[3, 16]]}
    for fault, _, _ in reversed(FAULTS[number:]):
        arguments |= fault
    with pytest.raises(kind) as caught:
        open_one.resize(**arguments)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)
    assert shapes(open_one) == ([[-1, 16]], [[-1, 16]])


@pytest.mark.parametrize("case", MORE)
def test_what_cannot_be_a_shape_is_refused_and_nothing_changes(open_one: Model, case: str) -> None:
    dims, kind, text = MORE[case]
    inputs = open_one.get_inputs()
    with pytest.raises(kind) as caught:
        open_one.resize(inputs, dims)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)
    assert inputs[0].shape == [-1, 16]
    assert shapes(open_one) == ([[-1, 16]], [[-1, 16]])


def test_a_model_that_is_not_built_is_not_resized() -> None:
    with pytest.raises(RuntimeError, match=r"resize failed! Error is Session is null"):
        Model().resize([Tensor()], [[1]])
    with pytest.raises(ValueError, match="inputs' size does not match dims' size"):
        Model().resize([Tensor()], [])


def test_too_few_inputs_are_refused(tmp_path: Path) -> None:
    path = saved(two_inputs(["n"], ["n"], ["n"]), tmp_path / "m.mindir")
    with opened(path) as built, pytest.raises(RuntimeError, match="resize failed! Error is"):
        built.resize(built.get_inputs()[:1], [[3]])


def test_a_shape_that_is_baked_in_is_named_and_the_model_goes_on(fixed: Model) -> None:
    inputs = fixed.get_inputs()
    with pytest.raises(RuntimeError) as caught:
        fixed.resize(inputs, [[1, 1, 64, 64]])
    assert str(caught.value).startswith(
        "resize failed! Error is The given input shape's value != original input shape's value."
    )
    assert "static shape" in str(caught.value)
    assert inputs[0].shape == [1, 1, 32, 32]
    assert fixed.predict([np.zeros((1, 1, 32, 32), np.float32)])[0].shape == [1, 10]


def test_inputs_that_share_a_symbol_are_resized_together(tmp_path: Path) -> None:
    with opened(saved(two_inputs(["n"], ["n"], ["n"]), tmp_path / "m.mindir")) as built:
        with pytest.raises(RuntimeError, match="resize failed! Error is dimension 'n' of input"):
            built.resize(built.get_inputs(), [[3], [4]])
        built.resize(built.get_inputs(), [[3], [3]])
        assert shapes(built) == ([[3], [3]], [[3]])


def test_shapes_that_do_not_go_with_each_other_are_refused(tmp_path: Path) -> None:
    with opened(saved(two_inputs(["n"], ["m"], ["k"]), tmp_path / "m.mindir")) as built:
        with pytest.raises(RuntimeError, match="resize failed! Error is the graph does not go"):
            built.resize(built.get_inputs(), [[3], [4]])
        assert shapes(built) == ([[-1], [-1]], [[-1]])
        built.resize(built.get_inputs(), [[3], [1]])
        assert shapes(built) == ([[3], [1]], [[3]])


def test_a_model_without_inputs_is_resized_to_nothing(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "net",
        [],
        [port("y", [2])],
        [onnx.numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with opened(saved(net, tmp_path / "m.mindir")) as built:
        built.resize([], [])
        assert built.get_outputs()[0].shape == [2]


# --- threads, and anything -----------------------------------------------------------------------


def test_predictions_go_on_while_others_resize(fixed: Model) -> None:
    x = np.zeros((1, 1, 32, 32), np.float32)
    faults: list[BaseException] = []
    done = threading.Event()

    def predict() -> None:
        while not done.is_set():
            try:
                assert fixed.predict([Tensor(x)])[0].shape == [1, 10]
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                faults.append(error)
                return

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for size in (2, 1, 3, 1, 4, 2):
            fixed.resize(fixed.get_inputs(), [[size, 1, 32, 32]])
    finally:
        done.set()
        thread.join()
    assert not faults


dims = st.lists(
    st.lists(st.integers(-3, 70) | st.booleans(), max_size=3)
    | st.tuples(st.integers(-(2**70), 2**70), st.just(16))
    | st.none()
    | st.text(max_size=2),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(dims | st.none() | st.integers(), st.integers(0, 2))
def test_whatever_comes_it_is_a_shape_or_refused_in_one_of_three_ways(
    tmp_path_factory: pytest.TempPathFactory, wanted: Any, count: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mindir"
    if not path.exists():
        saved(dense(), path)
    with opened(path) as built:
        try:
            built.resize(built.get_inputs() * count, wanted)
        except (TypeError, ValueError, RuntimeError):
            assert shapes(built) == ([[-1, 16]], [[-1, 16]])
        else:
            assert shapes(built)[0] == [[int(size) for size in shape] for shape in wanted]
