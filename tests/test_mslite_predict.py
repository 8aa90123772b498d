"""Model.predict by MindSpore Lite's contract: what it takes and gives, and what is wrong."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from tests.nets import dense, model, port, saved
from weightd import DataType, Model, ModelType, Tensor
from weightd.weights.arrays import Array

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.full((2, 3), 10, np.float32)
DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64"]


def opened(net: onnx.ModelProto, folder: Path) -> Model:
    """The caller closes it."""
    built = Model()
    built.build_from_file(str(saved(net, folder / "m.mindir")), ModelType.MINDIR)
    return built


def sums() -> onnx.ModelProto:
    """total = a + b, difference = a - b."""
    shape = (2, 3)
    return model(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        inputs=[port("a", shape), port("b", shape)],
        outputs=[port("total", shape), port("difference", shape)],
    )


def identity(dtype: int, shape: tuple[int | str, ...] = (2, 3)) -> onnx.ModelProto:
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], inputs=[port("x", shape, dtype)], outputs=[port("y", shape, dtype)])


@pytest.fixture(scope="module")
def summing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with opened(sums(), tmp_path_factory.mktemp("sums")) as built:
        yield built


def numbers(tensors: list[Tensor]) -> list[list[float]]:
    return [tensor.get_data_to_numpy().reshape(-1).tolist() for tensor in tensors]


SUMS = [(A + B).reshape(-1).tolist(), (A - B).reshape(-1).tolist()]


# --- what it takes ---------------------------------------------------------------------------

GIVEN: dict[str, Callable[[Model], Any]] = {
    "arrays": lambda _: [A, B],
    "a tuple": lambda _: (A, B),
    "tensors": lambda _: [Tensor(A), Tensor(B)],
    "both": lambda _: [A, Tensor(B)],
    "the inputs": lambda built: [
        _filled(t, x) for t, x in zip(built.get_inputs(), (A, B), strict=True)
    ],
    "flat arrays": lambda _: [A.reshape(-1), B.reshape(3, 2)],
    "columns": lambda _: [np.asfortranarray(A), np.asfortranarray(B)],
    "a view with gaps": lambda _: [np.repeat(A, 2, axis=1)[:, ::2], np.repeat(B, 2, axis=0)[::2]],
    "read-only arrays": lambda _: [_read_only(A), _read_only(B)],
    "backwards": lambda _: [A[::-1].copy()[::-1], B],
    "a subclass of array": lambda _: [A.view(np.matrix), B],
    "unaligned": lambda _: [_unaligned(A), B],
}


def _filled(tensor: Tensor, array: Array) -> Tensor:
    tensor.set_data_from_numpy(array)
    return tensor


def _read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(array: Array) -> Array:
    memory = np.empty(array.nbytes + 1, np.uint8)
    odd = memory[1:].view(array.dtype).reshape(array.shape)
    odd[:] = array
    return odd


@pytest.mark.parametrize("case", GIVEN)
def test_arrays_and_tensors_in_any_order_of_memory_give_the_same(summing: Model, case: str) -> None:
    assert numbers(summing.predict(GIVEN[case](summing))) == SUMS


def test_outputs_are_named_tensors_in_the_order_of_get_outputs(summing: Model) -> None:
    outputs = summing.predict([A, B])
    assert isinstance(outputs, list)
    assert [output.name for output in outputs] == ["total", "difference"]
    assert [output.name for output in outputs] == [meta.name for meta in summing.get_outputs()]
    assert [(o.shape, o.dtype) for o in outputs] == [([2, 3], DataType.FLOAT32)] * 2


def test_an_output_is_the_callers_and_stays(summing: Model) -> None:
    first = summing.predict([A, B])[0].get_data_to_numpy()
    before = first.copy()
    summing.predict([B, B])
    assert np.array_equal(first, before)
    first[:] = 0


def test_the_inputs_are_not_changed_and_can_be_used_again(summing: Model) -> None:
    inputs = [Tensor(A.copy()), Tensor(B.copy())]
    assert numbers(summing.predict(inputs)) == numbers(summing.predict(inputs)) == SUMS


def test_data_that_change_after_they_were_set_count_as_they_are_when_it_runs(
    summing: Model,
) -> None:
    x = A.copy()
    inputs = [Tensor(x), Tensor(B)]
    x += 1
    assert numbers(summing.predict(inputs))[0] == (A + 1 + B).reshape(-1).tolist()


# --- what is wrong -----------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no list": (A, None, TypeError, "inputs must be list or tuple, but got"),
    "a tensor": (Tensor(A), None, TypeError, "inputs must be list or tuple, but got"),
    "nothing": (None, None, TypeError, "inputs must be list or tuple, but got"),
    "too few": ([A], None, RuntimeError, "model input len:2 not equal input len:1!"),
    "none": ([], None, RuntimeError, "model input len:2 not equal input len:0!"),
    "too many": ([A] * 3, None, RuntimeError, "model input len:2 not equal input len:3!"),
    "a text": ([A, "b"], None, TypeError, "inputs element must be Tensor, of numpy."),
    "a number": ([np.float32(1), B], None, TypeError, "inputs element must be Tensor, of numpy."),
    "another dtype": ([A, B.astype(np.int32)], None, RuntimeError, "data type not equal!"),
    "another size": ([A, B[:1]], None, RuntimeError, "data size not equal!"),
    "a dtype without a name": ([A, B.astype("c8")], None, TypeError, "Unsupported numpy dtype"),
    "objects": ([A, np.array([[None] * 3] * 2)], None, TypeError, "Unsupported numpy dtype value"),
    "other byte order": ([A, B.astype(">f4")], None, TypeError, "Unsupported numpy dtype value"),
    "no data": ([A, Tensor()], None, RuntimeError, "predict failed!"),
    "a tensor of another shape": (
        [A, Tensor(np.zeros((3, 3), np.float32))],
        None,
        RuntimeError,
        "predict failed!",
    ),
    "a tensor of another dtype": (
        [A, Tensor(B.astype(np.float64))],
        None,
        RuntimeError,
        "predict failed!",
    ),
    "outputs no list": ([A, B], (Tensor(),), TypeError, "outputs must be list"),
    "outputs no tensors": ([A, B], [A, B], TypeError, "outputs element must be Tensor"),
    "too few outputs": ([A, B], [Tensor()], RuntimeError, "predict failed!"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_upstreams_words(summing: Model, case: str) -> None:
    inputs, outputs, kind, text = WRONG[case]
    with pytest.raises(kind) as caught:
        summing.predict(inputs, outputs)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


ORDER: dict[str, tuple[Any, Any, str]] = {
    "the list before the outputs": (A, 1, "inputs must be list"),
    "the number before the elements": (["a"], 1, "model input len:2"),
    "the first element before the second": ([B[:1], "b"], 1, "data size not equal!"),
    "dtype before size": ([A, B[:1].astype("f8")], 1, "data type not equal!"),
    "the elements before the outputs": ([A, "b"], 1, "inputs element must be Tensor"),
    "the outputs before missing data": ([A, Tensor()], 1, "outputs must be list"),
}


@pytest.mark.parametrize("case", ORDER)
def test_of_two_faults_upstreams_first_is_told(summing: Model, case: str) -> None:
    inputs, outputs, text = ORDER[case]
    with pytest.raises((TypeError, RuntimeError)) as caught:
        summing.predict(inputs, outputs)
    assert str(caught.value).startswith(text)


def test_a_model_that_is_not_built_takes_no_inputs_and_predicts_nothing() -> None:
    with pytest.raises(RuntimeError, match="model input len:0 not equal input len:1!"):
        Model().predict([A])
    with pytest.raises(RuntimeError, match="predict failed!"):
        Model().predict([])


def test_inputs_whose_data_were_never_set_are_a_failed_prediction(summing: Model) -> None:
    with pytest.raises(RuntimeError, match="predict failed!"):
        summing.predict(summing.get_inputs())


def test_a_graph_that_fails_at_run_time_is_a_failed_prediction(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    ports = {"inputs": [port("x", ["n"])], "outputs": [port("y", [3, "m"])]}
    net = model(nodes, {"shape": np.array([3, -1])}, **ports)
    with opened(net, tmp_path) as built:
        assert built.predict([Tensor(np.zeros(6, np.float32))])[0].shape == [3, 2]
        with pytest.raises(RuntimeError, match="predict failed! Error is onnxruntime failed"):
            built.predict([Tensor(np.zeros(5, np.float32))])


# --- outputs that are brought ------------------------------------------------------------------


def test_outputs_that_are_brought_are_filled_in_place(summing: Model) -> None:
    room = [np.zeros((2, 3), np.float32) for _ in range(2)]
    outputs = [Tensor(array) for array in room]
    returned = summing.predict([A, B], outputs)
    assert [array.reshape(-1).tolist() for array in room] == SUMS
    assert all(a is b for a, b in zip(returned, outputs, strict=True))


def test_outputs_without_data_get_them(summing: Model) -> None:
    outputs = [Tensor(), Tensor()]
    summing.predict([A, B], outputs)
    assert numbers(outputs) == SUMS
    assert [output.shape for output in outputs] == [[2, 3]] * 2


def test_an_empty_list_of_outputs_is_none(summing: Model) -> None:
    assert numbers(summing.predict([A, B], [])) == SUMS


def test_room_of_the_right_size_takes_the_outputs_shape(summing: Model) -> None:
    room = np.zeros(6, np.float32)
    summing.predict([A, B], [Tensor(room), Tensor(shape=[3, 2], dtype=DataType.FLOAT32)])
    assert room.tolist() == SUMS[0]


@pytest.mark.parametrize(
    "room",
    [np.zeros((2, 2), np.float32), np.zeros((2, 3), np.int32), _read_only(A)],
    ids=["too small", "another dtype", "read-only"],
)
def test_room_that_does_not_fit_is_refused_and_no_output_is_written(
    summing: Model, room: Array
) -> None:
    first = np.zeros((2, 3), np.float32)
    with pytest.raises(RuntimeError, match="predict failed!"):
        summing.predict([A, B], [Tensor(first), Tensor(room)])
    assert not first.any()


def test_an_output_may_be_an_input(summing: Model) -> None:
    a, b = Tensor(A.copy()), Tensor(B.copy())
    summing.predict([a, b], [a, b])
    assert numbers([a, b]) == SUMS


# --- models of every kind ------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_goes_in_and_comes_out(tmp_path: Path, name: str) -> None:
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(name)
    with opened(identity(helper.np_dtype_to_tensor_dtype(x.dtype)), tmp_path) as built:
        assert built.get_inputs()[0].dtype is DataType[name.upper()]
        (output,) = built.predict([x])
        assert output.dtype is DataType[name.upper()]
        assert np.array_equal(output.get_data_to_numpy(), x)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3)])
def test_shapes_without_sizes_or_elements_go_through(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    x = np.ones(shape, np.float32)
    with opened(identity(TensorProto.FLOAT, shape), tmp_path) as built:
        (output,) = built.predict([Tensor(x)])
        assert output.shape == list(shape)
        assert output.get_data_to_numpy().size == x.size


def test_a_model_without_inputs_predicts(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["w", "w"], ["y"])]
    net = helper.make_model(
        helper.make_graph(
            nodes, "net", [], [port("y", [2])], [onnx.numpy_helper.from_array(A[0, :2], "w")]
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    with opened(net, tmp_path) as built:
        assert built.get_inputs() == []
        assert built.get_model_info("input_shape") == ""
        assert numbers(built.predict([])) == [[0, 2]]


def test_the_number_of_elements_may_depend_on_the_data(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    outputs = [port("y", [1, "k"], TensorProto.INT64)]
    with opened(model(nodes, inputs=[port("x", [3])], outputs=outputs), tmp_path) as built:
        assert built.get_outputs()[0].shape == [1, -1]
        assert numbers(built.predict([np.array([5, 0, 6], np.float32)])) == [[0, 2]]
        (empty,) = built.predict([np.zeros(3, np.float32)])
        assert empty.shape == [1, 0]
        assert empty.get_data_to_numpy().size == 0


def test_inputs_that_share_a_symbol_need_one_size(tmp_path: Path) -> None:
    ports = {"inputs": [port("a", ["n"]), port("b", ["n"])], "outputs": [port("c", ["n"])]}
    with opened(model([helper.make_node("Add", ["a", "b"], ["c"])], **ports), tmp_path) as built:
        one, three = np.ones(1, np.float32), np.ones(3, np.float32)
        assert numbers(built.predict([Tensor(three), Tensor(three)])) == [[2, 2, 2]]
        with pytest.raises(RuntimeError, match="predict failed!"):
            built.predict([Tensor(one), Tensor(three)])


def test_texts_are_no_tensors_and_such_a_model_says_so(tmp_path: Path) -> None:
    with Model() as built:
        path = saved(identity(TensorProto.STRING), tmp_path / "m.mindir")
        with pytest.raises(RuntimeError, match="build_from_file failed! Error is"):
            built.build_from_file(str(path), ModelType.MINDIR)


# --- many threads ------------------------------------------------------------------------------


def test_threads_predict_side_by_side_with_inputs_of_their_own(tmp_path: Path) -> None:
    with opened(dense(2), tmp_path) as built:
        faults: list[object] = []

        def ask(number: int) -> None:
            x = np.full((1, 16), number, np.float32)
            for _ in range(50):
                (output,) = built.predict([Tensor(x)])
                if not (output.get_data_to_numpy() == 32 * number + 2).all():
                    faults.append(output)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults


# --- anything ----------------------------------------------------------------------------------

anything = (
    st.none()
    | st.integers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | arrays.arrays(
        arrays.scalar_dtypes() | st.just(np.dtype(object)) | st.just(np.dtype("f4")),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        fill=st.nothing(),
        elements=None,
    )
    | st.builds(Tensor)
    | st.builds(lambda: Tensor(A.copy()))  # as an output it is written to
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(anything, max_size=3) | anything,
    st.none() | st.lists(anything, max_size=3) | anything,
)
def test_whatever_comes_it_is_answered_or_refused_in_one_of_three_ways(
    summing: Model, inputs: Any, outputs: Any
) -> None:
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        summing.predict(inputs, outputs)
    assert numbers(summing.predict([A, B])) == SUMS
