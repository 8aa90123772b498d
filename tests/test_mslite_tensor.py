"""Tensor by MindSpore Lite's contract: what it is made of, what it takes, what it gives back."""

from collections.abc import Callable

import numpy as np
import pytest

import weightd as mslite
from weightd import DataType, Format, Tensor
from weightd.weights.arrays import Array

DTYPES = {
    "bool": 30,
    "int8": 32,
    "int16": 33,
    "int32": 34,
    "int64": 35,
    "uint8": 37,
    "uint16": 38,
    "uint32": 39,
    "uint64": 40,
    "float16": 42,
    "float32": 43,
    "float64": 44,
}
FORMATS = (
    "DEFAULT=-1 NCHW=0 NHWC=1 NHWC4=2 HWKC=3 HWCK=4 KCHW=5 CKHW=6 KHWC=7 CHWK=8 HW=9 HW4=10 NC=11 "
    "NC4=12 NC4HW4=13 NCDHW=15 NWC=16 NCW=17 NDHWC=18 NC8HW8=19"
)


def test_the_enumerations_have_upstreams_numbers() -> None:
    wanted = {name.upper(): number for name, number in DTYPES.items()}
    wanted |= {"UNKNOWN": 0, "INVALID": 2147483647}
    assert {each.name: each.value for each in DataType} == wanted
    assert " ".join(f"{each.name}={each.value}" for each in Format) == FORMATS


def test_a_new_tensor_is_a_float_without_dimensions() -> None:
    tensor = Tensor()
    assert (tensor.name, tensor.dtype, tensor.shape) == ("", DataType.FLOAT32, [])
    assert (tensor.format, tensor.element_num, tensor.data_size) == (Format.NCHW, 1, 4)
    assert tensor.device == "None:-1"


def test_a_tensor_says_what_it_is() -> None:
    tensor = Tensor()
    tensor.name, tensor.shape = "tensor1", [1, 3, 2, 2]
    assert str(tensor) == (
        "name: tensor1,\ndtype: DataType.FLOAT32,\nshape: [1, 3, 2, 2],\nformat: Format.NCHW,\n"
        "element_num: 12,\ndata_size: 48.\ndevice: None:-1."
    )
    assert str(mslite.TensorMeta()) == (
        "name: ,\ndtype: DataType.UNKNOWN,\nshape: [],\nformat: Format.DEFAULT,\n"
        "element_num: 0,\ndata_size: 0."
    )


REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "shape of a number": (lambda: Tensor(shape=1), TypeError, "shape must be list or tuple"),  # type: ignore[arg-type]
    "shape of texts": (lambda: Tensor(shape=["1"]), TypeError, "shape element must be int"),  # type: ignore[list-item]
    "shape of numpy's": (
        lambda: Tensor(shape=[np.int64(1)]),  # type: ignore[list-item]
        TypeError,
        "shape element must be int",
    ),
    "device of a number": (lambda: Tensor(device=1), TypeError, "device must be str"),  # type: ignore[arg-type]
    "device cpu": (lambda: Tensor(device="cpu"), TypeError, "now only support ascend device."),
    "device of no number": (lambda: Tensor(device="ascend:x"), TypeError, "must be 'ascend:index'"),
    "device below 0": (lambda: Tensor(device="ascend:-1"), TypeError, "device id should >= 0."),
    "dtype of a text": (lambda: Tensor(dtype="int8"), TypeError, "dtype must be DataType"),  # type: ignore[arg-type]
    "a text": (
        lambda: Tensor("abc"),  # type: ignore[arg-type]
        TypeError,
        "tensor must be MindSpore Lite's Tensor._tensor or numpy ndarray",
    ),
    "texts": (lambda: Tensor(np.array(["a"])), TypeError, "Unsupported numpy dtype value"),
    "complex numbers": (lambda: Tensor(np.zeros(1, "c8")), TypeError, "Unsupported numpy dtype"),
    "another shape": (
        lambda: Tensor(np.zeros(3), shape=[4]),
        TypeError,
        "user set shape is not equal numpy shape",
    ),
    "another dtype": (
        lambda: Tensor(np.zeros(3), dtype=DataType.INT8),
        TypeError,
        "user set dtype is not equal numpy dtype",
    ),
    "shape before device": (lambda: Tensor(shape=1, device=1), TypeError, "shape must be"),  # type: ignore[arg-type]
    "device before dtype": (lambda: Tensor(device="x", dtype=1), TypeError, "ascend"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_tensor_cannot_be_made_of_is_refused(case: str) -> None:
    make, kind, text = REFUSED[case]
    with pytest.raises(kind) as caught:
        make()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("name", 1, "name must be str"),
        ("dtype", 1, "dtype must be DataType"),
        ("shape", 224, "shape must be list"),
        ("shape", None, "shape must be list"),
        ("shape", ["224", "224"], "shape element must be int"),
        ("format", 1, "format must be Format"),
    ],
)
def test_a_property_of_the_wrong_type_is_refused(name: str, value: object, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        setattr(Tensor(), name, value)


@pytest.mark.parametrize("name", ["element_num", "data_size", "device"])
def test_what_follows_from_the_rest_cannot_be_set(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Tensor(), name, 1)


@pytest.mark.parametrize("name", DTYPES)
def test_each_dtype_of_numpy_comes_back(name: str) -> None:
    array = np.ones((2, 3), name)
    tensor = Tensor(array)
    assert tensor.dtype.name == name.upper()
    assert tensor.data_size == array.nbytes
    found = tensor.get_data_to_numpy()
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_the_memory_of_an_array_is_used_and_not_copied() -> None:
    array = np.zeros((2, 3), np.float32)
    made, filled = Tensor(array), Tensor(shape=[6], dtype=DataType.FLOAT32)
    filled.set_data_from_numpy(array)
    array[1, 2] = 7
    assert made.get_data_to_numpy()[1, 2] == 7
    assert filled.get_data_to_numpy()[5] == 7
    assert np.shares_memory(array, filled.get_data_to_numpy())


def test_an_array_outlives_its_tensor() -> None:
    tensor = Tensor(np.arange(6, dtype=np.float32))
    found = tensor.get_data_to_numpy()
    del tensor
    assert found.sum() == 15


def test_what_lies_in_another_order_is_copied_into_rows() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    for tensor in (Tensor(array), Tensor(array[:, ::2]), Tensor(np.array(5.0))):
        found = tensor.get_data_to_numpy()
        assert found.flags["C_CONTIGUOUS"]
        assert list(found.shape) == tensor.shape
    assert np.array_equal(Tensor(array).get_data_to_numpy(), array)


def test_a_tensor_of_a_tensor_is_a_copy() -> None:
    one = Tensor(np.zeros(3, np.int32))
    other = Tensor(one)
    one.get_data_to_numpy()[0] = 5
    assert other.get_data_to_numpy()[0] == 0
    assert other.dtype is DataType.INT32


def test_a_tensor_of_shape_and_dtype_is_there_at_once() -> None:
    tensor = Tensor(shape=(2, 3), dtype=DataType.INT16)
    assert np.array_equal(tensor.get_data_to_numpy(), np.zeros((2, 3), np.int16))


@pytest.mark.parametrize(
    ("array", "kind", "text"),
    [
        (1, TypeError, "numpy_obj must be numpy.ndarray,"),
        (np.array(["a"]), TypeError, "Unsupported numpy dtype value"),
        (np.zeros(6, np.int32), RuntimeError, "data type not equal!"),
        (np.zeros(5, np.int32), RuntimeError, "data type not equal!"),
        (np.zeros(5, np.float32), RuntimeError, "data size not equal!"),
    ],
)
def test_data_that_do_not_fit_are_refused_and_the_old_ones_stay(
    array: Array, kind: type[Exception], text: str
) -> None:
    tensor = Tensor(np.ones((2, 3), np.float32))
    with pytest.raises(kind) as caught:
        tensor.set_data_from_numpy(array)
    assert text in str(caught.value)
    assert tensor.get_data_to_numpy().sum() == 6


def test_data_need_the_bytes_of_a_tensor_not_its_shape() -> None:
    tensor = Tensor(shape=[1, 3, 2, 2], dtype=DataType.FLOAT32)
    tensor.set_data_from_numpy(np.arange(12, dtype=np.float32))
    assert tensor.shape == [1, 3, 2, 2]
    assert tensor.get_data_to_numpy().shape == (1, 3, 2, 2)


def test_another_shape_keeps_data_that_still_fit_and_drops_others() -> None:
    tensor = Tensor(np.arange(6, dtype=np.float32))
    tensor.shape = (2, 3)
    assert tensor.get_data_to_numpy()[1, 2] == 5
    tensor.shape = [4]
    assert tensor.array() is None
    assert np.array_equal(tensor.get_data_to_numpy(), np.zeros(4))
    tensor = Tensor(np.arange(6, dtype=np.float32))
    tensor.dtype = DataType.INT32
    assert tensor.array() is None


def test_a_bool_is_a_size_as_upstream_has_it() -> None:
    tensor = Tensor(shape=[True, 2], dtype=DataType.FLOAT32)
    assert tensor.shape == [1, 2]
    tensor.shape = [2, True]
    assert tensor.get_data_to_numpy().shape == (2, 1)


def test_a_shape_that_numpy_cannot_have_drops_the_data() -> None:
    tensor = Tensor(np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="maximum supported dimension"):
        tensor.shape = [1] * 70
    assert tensor.array() is None


def test_what_does_not_fit_into_memory_is_said_in_upstreams_way() -> None:
    with pytest.raises(RuntimeError, match="create tensor failed! Error is Unable to allocate"):
        Tensor(shape=[2**45], dtype=DataType.FLOAT32)
    tensor = Tensor()
    tensor.shape = [2**45]
    with pytest.raises(RuntimeError, match="create tensor failed! Error is Unable to allocate"):
        tensor.get_data_to_numpy()
    with pytest.raises(RuntimeError, match="create tensor failed! Error is Unable to allocate"):
        Tensor(np.broadcast_to(np.float32(1), (2**30, 2**20)))


@pytest.mark.parametrize("shape", [[2, -1], [0], [3, 0, 2]])
def test_a_shape_without_elements_gives_an_empty_array(shape: list[int]) -> None:
    tensor = Tensor()
    tensor.shape = shape
    assert (tensor.element_num, tensor.data_size) == (0, 0)
    assert tensor.get_data_to_numpy().size == 0


def test_an_open_size_must_be_given_before_data() -> None:
    tensor = Tensor()
    tensor.shape = [-1, 3]
    with pytest.raises(RuntimeError, match=r"data size not equal!.*resize"):
        tensor.set_data_from_numpy(np.zeros((2, 3), np.float32))


def test_a_tensor_on_an_ascend_needs_one_or_its_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTD_TARGET_SUBSTITUTE", raising=False)
    with pytest.raises(RuntimeError, match="WEIGHTD_TARGET_SUBSTITUTE=cpu"):
        Tensor(shape=[1, 2], dtype=DataType.FLOAT32, device="ascend:0")
    monkeypatch.setenv("WEIGHTD_TARGET_SUBSTITUTE", "cpu")
    tensor = Tensor(np.ones(3, np.float32), device="ascend:1")
    assert tensor.device == "ascend:1"
    assert np.array_equal(Tensor(tensor).get_data_to_numpy(), np.ones(3))
    assert Tensor(tensor).device == "None:-1"
    assert Tensor(device="ascend").device == "ascend:0"
