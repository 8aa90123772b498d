"""Numpy's side of the dtype names: dtypes of both directions, and views of shared bytes.

The only file of this folder, besides the readers, that imports numpy.
"""

import functools
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from weightd.errors import BadFileError, UsageError
from weightd.weights.dtypes import ITEMSIZE, nbytes_of

Array = npt.NDArray[Any]

_COMPARED_NBYTES = 1024 * 1024  # at a time: it stays in the cache, and what differs, differs soon


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's (or ml_dtypes') dtype of this name; BadFileError when weightd has no such dtype."""
    if name not in ITEMSIZE:
        raise BadFileError(f"unknown dtype {name!r}; weightd has {', '.join(ITEMSIZE)}")
    return np.dtype(getattr(ml_dtypes, name, name))


def dtype_name(dtype: np.dtype[Any]) -> str:
    """weightd's name of a dtype; BadFileError for what cannot be shared as plain bytes."""
    if dtype.byteorder == ">":
        raise BadFileError(f"big-endian dtype {dtype.str}; convert it to little-endian")
    if dtype.name not in ITEMSIZE or dtype != numpy_dtype(dtype.name):
        raise BadFileError(f"dtype {dtype} is not supported; weightd has {', '.join(ITEMSIZE)}")
    return dtype.name


def view(buffer: memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    """A read-only array over `buffer`, without a copy. It keeps the buffer alive."""
    nbytes = nbytes_of(dtype, shape)
    if buffer.nbytes != nbytes:
        raise UsageError(f"{dtype}{list(shape)} is {nbytes} bytes; the buffer has {buffer.nbytes}")
    if not nbytes:
        array: Array = np.empty(shape, numpy_dtype(dtype))
        array.flags.writeable = False
        return array
    # toreadonly: an array's own flag could be set back over a writable buffer. frombuffer: unlike
    # np.ndarray(buffer=...) it keeps the export, so that nobody can unmap the bytes under it.
    return np.frombuffer(buffer.toreadonly(), numpy_dtype(dtype)).reshape(shape)


def are_equal(one: memoryview, other: memoryview) -> bool:
    """Whether two buffers of bytes are the same. A memoryview's own == looks at each byte alone."""
    if len(one) != len(other):
        return False
    words = len(one) // 8
    left, right = np.frombuffer(one, np.uint64, words), np.frombuffer(other, np.uint64, words)
    step = _COMPARED_NBYTES // 8
    return one[8 * words :] == other[8 * words :] and all(
        np.array_equal(left[start : start + step], right[start : start + step])
        for start in range(0, words, step)
    )
