"""dtypes.py and arrays.py: names, sizes, and views over shared bytes."""

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from weightd.errors import BadFileError, UsageError
from weightd.weights.arrays import dtype_name, numpy_dtype, view
from weightd.weights.dtypes import ITEMSIZE, MAX_NAME_LENGTH, name_fault, nbytes_of, tensor_fault


@pytest.mark.parametrize("name", ITEMSIZE)
def test_every_dtype_has_a_numpy_dtype_of_its_size(name: str) -> None:
    dtype = numpy_dtype(name)
    assert dtype.itemsize == ITEMSIZE[name]
    assert dtype_name(dtype) == name


def test_the_size_of_an_impossible_tensor_is_exact() -> None:
    assert nbytes_of("float32", (2**62, 2**62)) == 2**126


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(object),
        np.dtype("datetime64[s]"),
        np.dtype("U3"),
        np.dtype("V2"),
        np.dtype([("a", "f4")]),
        np.dtype(("f4", (2,))),
        np.dtype(">f4"),
        np.dtype(">i8"),
        np.dtype(np.longdouble),
        np.dtype(ml_dtypes.int4),
    ],
    ids=str,
)
def test_a_dtype_that_is_not_plain_little_endian_bytes_is_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(BadFileError, match="dtype"):
        dtype_name(dtype)


def test_an_unknown_dtype_name_is_refused() -> None:
    with pytest.raises(BadFileError, match="unknown dtype 'float31'"):
        numpy_dtype("float31")


def test_a_view_shows_the_buffer_and_keeps_it_alive() -> None:
    buffer = bytearray(np.arange(6, dtype=np.float32).tobytes())
    array = view(memoryview(buffer), "float32", (2, 3))
    buffer[:4] = np.float32(7).tobytes()
    assert array.tolist() == [[7, 1, 2], [3, 4, 5]]
    with pytest.raises(BufferError):
        buffer.clear()


def test_a_view_of_a_writable_buffer_can_never_be_made_writable() -> None:
    array = view(memoryview(bytearray(4)), "bfloat16", (2,))
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_a_view_may_be_a_scalar_or_empty(shape: tuple[int, ...]) -> None:
    buffer = memoryview(bytes(nbytes_of("float64", shape)))
    assert view(buffer, "float64", shape).shape == shape


def test_a_view_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"float32\[2\] is 8 bytes; the buffer has 9"):
        view(memoryview(bytes(9)), "float32", (2,))


@pytest.mark.parametrize(
    ("dtype", "shape", "fault"),
    [
        ("float31", (1,), "unknown dtype"),
        ("int8", (1,) * 65, "65 dimensions"),
        ("int8", (1, -1), "negative dimension"),
        ("int8", (2**32, 2**32), "overflow"),
        ("int8", (0, 2**32, 2**32), "overflow"),
        ("float32", (2**61,), "overflow"),
        ("float32", (0, 3), ""),
        ("float32", (), ""),
    ],
)
def test_a_tensors_fault_is_named(dtype: str, shape: tuple[int, ...], fault: str) -> None:
    found = tensor_fault(dtype, shape)
    assert fault in found
    assert bool(fault) == bool(found)


def test_what_has_no_fault_is_a_shape_that_numpy_takes() -> None:
    assert view(memoryview(b""), "int8", (0, 2**31, 2**31)).shape == (0, 2**31, 2**31)


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_LENGTH + 1), "\ud800"])
def test_an_impossible_name_has_a_fault(name: str) -> None:
    assert name_fault(name)


def test_an_ordinary_name_has_no_fault() -> None:
    assert not name_fault("encoder.layer.0/weight:0 é")


@pytest.mark.parametrize("module", ["dtypes", "manifest", "arena", "source", "safetensors"])
def test_what_the_daemon_may_import_brings_no_numpy(module: str) -> None:
    program = f"import sys, weightd.weights.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"numpy", "ml_dtypes", "onnx"} & set(done.stdout.split())
