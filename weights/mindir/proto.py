"""protobuf's untyped fields as what they mean: text, dtypes, types of values, constants.

Everything here is checked, so that the rest can trust it. Attributes of MindSpore 1.x, which say
their kind in a text, are understood in legacy.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightd.errors import BadFileError
from weightd.weights.arrays import Array, numpy_dtype
from weightd.weights.dtypes import tensor_fault

# TensorProto.DataType
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float64",
}

# AttributeProto.AttributeType
BOOL = 9
_FLOAT, _STRING, _DOUBLE = 1, 8, 11
_INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
_TENSOR, _TENSORS, _TUPLE, _LIST = 17, 19, 20, 21
_UMONAD, _IOMONAD, _NONE, _TYPE_NULL, _SCALAR = 23, 24, 25, 36, 39
_OPEN_RANK = [-2]


@dataclass(frozen=True)
class TensorType:
    """What is declared of a tensor. A size of -1 is open; shape None: not even the rank is known.
    A number that is computed, as x.shape[0] is, has the shape ()."""

    dtype: str
    shape: tuple[int, ...] | None


# None: no data (a monad, a graph), or nothing that is understood.
Type = TensorType | tuple["Type", ...] | None


@dataclass(frozen=True)
class Monad:
    """MindSpore's token that orders side effects; no data."""


@dataclass(frozen=True)
class Opaque:
    """A constant of a kind that nothing here needs: refused by whoever uses it. kind: its number,
    or what MindSpore 1 says of it."""

    kind: int | str


# A tensor without bytes says a type, and so does TensorType as a constant.
Constant = (
    None | bool | int | float | str | Array | TensorType | Monad | Opaque | tuple["Constant", ...]
)


def text_of(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadFileError(f"{what} is not valid UTF-8: {raw!r:.80}") from error


def dtype_of(number: int, of: str) -> str:
    dtype = DTYPES.get(number, "")
    if not dtype:
        raise BadFileError(f"{of} has the MindIR dtype {number}, which cannot be read")
    return dtype


def type_of(attribute: Any, of: str) -> Type:
    """What an attribute that declares a type says."""
    match attribute.type:
        case n if n in (_TENSORS, _TENSOR, _SCALAR) and len(attribute.tensors) == 1:
            is_scalar = n == _SCALAR
            return _tensor_type(attribute.tensors[0], of, is_scalar=is_scalar)
        case n if n in (_TUPLE, _LIST):
            return tuple(type_of(value, of) for value in attribute.values)
        case _:
            return None


def tensor_types(tensors: Sequence[Any], of: str) -> Type:
    """The type of an input or a value that is declared by tensors without bytes."""
    types = tuple(_tensor_type(tensor, of, is_scalar=False) for tensor in tensors)
    return types[0] if len(types) == 1 else types


def _tensor_type(tensor: Any, of: str, *, is_scalar: bool) -> TensorType | None:
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        return None
    dims = () if is_scalar else tuple(tensor.dims)
    if list(dims) == _OPEN_RANK:
        return TensorType(dtype, None)
    if fault := tensor_fault(dtype, [max(dim, 0) for dim in dims]):
        raise BadFileError(f"{of} {fault}")
    if min(dims, default=0) < -1:
        raise BadFileError(f"{of} has the shape {list(dims)}")
    return TensorType(dtype, dims)


def constant_of(attribute: Any, of: str) -> Constant:
    """The value of an attribute. Inside a tuple a number stands in the repeated fields."""
    kind = attribute.type
    if kind in (_TENSOR, _TENSORS) and len(attribute.tensors) == 1:
        return array_of(attribute.tensors[0], of)
    if kind in (_TUPLE, _LIST):
        return tuple(constant_of(value, of) for value in attribute.values)
    if kind in (_UMONAD, _IOMONAD):
        return Monad()
    if kind in (_NONE, _TYPE_NULL):
        return None
    return scalar_of(attribute, of)


def scalar_of(attribute: Any, of: str) -> Constant:
    """The value of an attribute that is a number or text."""
    match attribute.type:
        case n if n == BOOL:
            return bool(_first(attribute.ints, attribute.i))
        case n if n in _INTEGERS:
            return int(_first(attribute.ints, attribute.i))
        case n if n == _FLOAT:
            return float(_first(attribute.floats, attribute.f))
        case n if n == _DOUBLE:
            return float(_first(attribute.doubles, attribute.d))
        case n if n == _STRING:
            return text_of(_first(attribute.strings, attribute.s), of)
        case kind:
            return Opaque(kind)


def _first(values: Sequence[Any], single: Any) -> Any:
    return values[0] if len(values) == 1 else single


def array_of(tensor: Any, of: str) -> Array | TensorType:
    """A tensor inside a graph; its type when it has no bytes."""
    dtype = dtype_of(tensor.data_type, of)
    shape = tuple(tensor.dims)
    if fault := tensor_fault(dtype, shape):
        raise BadFileError(f"{of} {fault}")
    count = math.prod(shape)
    if count and not tensor.raw_data:
        return TensorType(dtype, shape)
    raw = tensor.raw_data if count else b""
    found = numpy_dtype(dtype)
    if len(raw) != count * found.itemsize:
        raise BadFileError(
            f"{of} has {len(raw)} bytes; {dtype}{list(shape)} needs {count * found.itemsize}"
        )
    return np.frombuffer(raw, found).reshape(shape)
