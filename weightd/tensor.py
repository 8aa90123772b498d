"""MindSpore Lite's Tensor: a name, a dtype, a shape and, once it is set, data in a numpy array."""

import math
import os
from enum import Enum
from typing import Any, Self

import numpy as np

from weightd.checks import check_instance
from weightd.errors import WeightdError
from weightd.targets import resolve
from weightd.weights.arrays import Array

Shape = tuple[int, ...]

_HOST = "None:-1"


class DataType(Enum):
    """What the elements of a Tensor are. UNKNOWN: what upstream has no name for, as bfloat16."""

    UNKNOWN = 0
    BOOL = 30
    INT8 = 32
    INT16 = 33
    INT32 = 34
    INT64 = 35
    UINT8 = 37
    UINT16 = 38
    UINT32 = 39
    UINT64 = 40
    FLOAT16 = 42
    FLOAT32 = 43
    FLOAT64 = 44
    INVALID = 2147483647


class Format(Enum):
    """How the axes of a Tensor are meant. weightd keeps it, and changes no data for it."""

    DEFAULT = -1
    NCHW = 0
    NHWC = 1
    NHWC4 = 2
    HWKC = 3
    HWCK = 4
    KCHW = 5
    CKHW = 6
    KHWC = 7
    CHWK = 8
    HW = 9
    HW4 = 10
    NC = 11
    NC4 = 12
    NC4HW4 = 13
    NCDHW = 15
    NWC = 16
    NCW = 17
    NDHWC = 18
    NC8HW8 = 19


_NOT_IN_NUMPY = (DataType.UNKNOWN, DataType.INVALID)
_NUMPY_OF = {each: np.dtype(each.name.lower()) for each in DataType if each not in _NOT_IN_NUMPY}
_OF_NUMPY = {dtype: each for each, dtype in _NUMPY_OF.items()}


def data_type_of(dtype: "np.dtype[Any]") -> DataType:
    """Upstream's name of numpy's dtype; UNKNOWN when it has none."""
    return _OF_NUMPY.get(dtype, DataType.UNKNOWN)


class TensorMeta:
    """What an output will be: plain attributes. A size that is open is -1."""

    def __init__(self) -> None:
        self.name = ""
        self.dtype = DataType.UNKNOWN
        self.shape: list[int] = []
        self.format = Format.DEFAULT
        self.element_num = 0
        self.data_size = 0

    def __str__(self) -> str:
        return _text(self) + "."


class Tensor:
    """An input, an output or a weight.

    tensor: a numpy array, whose memory is used (that of one that is not C-contiguous is copied), or
    another Tensor, whose data are copied. shape and dtype: of a new one, filled with zeros; beside
    `tensor` they must agree with it. With nothing it is a float32 without dimensions and without
    data. device: 'ascend' or 'ascend:N', for which a machine without one has an error, or, with
    $WEIGHTD_TARGET_SUBSTITUTE, host memory.

    Raises TypeError for a wrong type, and RuntimeError for a device that is not here.
    """

    __slots__ = ("_array", "_device", "_dtype", "_format", "_name", "_shape")

    def __init__(
        self,
        tensor: "Tensor | Array | None" = None,
        shape: list[int] | Shape | None = None,
        dtype: DataType | None = None,
        device: str | None = None,
    ) -> None:
        _check_shape(shape)
        self._device = _HOST if device is None else _checked_device(device)
        if dtype is not None:
            check_instance("dtype", dtype, DataType)
        self._name = ""
        self._format = Format.NCHW
        self._array: Array | None = None
        self._dtype = DataType.FLOAT32
        self._shape: Shape = ()
        if tensor is not None:
            self._keep(_source(tensor))
            _check_agrees(self, shape, dtype)
        elif shape is not None and dtype is not None:
            self._dtype, self._shape = dtype, tuple(map(int, shape))
            if dtype in _NUMPY_OF and min(shape, default=0) >= 0:
                self._array = _zeros(self._shape, dtype)

    @classmethod
    def _of(cls, name: str, array: Array) -> Self:
        """A Tensor over an output, which is its own."""
        self = cls.__new__(cls)
        self._name, self._array, self._shape = name, array, array.shape
        self._dtype = _OF_NUMPY.get(array.dtype, DataType.UNKNOWN)
        self._format, self._device = Format.NCHW, _HOST
        return self

    @classmethod
    def _empty(cls, name: str, dtype: DataType, shape: Shape) -> Self:
        """An input to be filled."""
        self = cls.__new__(cls)
        self._name, self._array, self._shape, self._dtype = name, None, shape, dtype
        self._format, self._device = Format.NCHW, _HOST
        return self

    def __str__(self) -> str:
        return f"{_text(self)}.\ndevice: {self.device}."

    # --- what it is ----------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = check_instance("name", name, str)

    @property
    def dtype(self) -> DataType:
        """Setting it, or the shape, so that data that were set no longer have the right number of
        bytes drops them."""
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: DataType) -> None:
        self._change(check_instance("dtype", dtype, DataType), self._shape)

    @property
    def shape(self) -> list[int]:
        """A list of ints; -1 is a size that is open."""
        return list(self._shape)

    @shape.setter
    def shape(self, shape: list[int] | Shape) -> None:
        _check_shape(shape, is_needed=True)
        self._change(self._dtype, tuple(map(int, shape)))

    @property
    def format(self) -> Format:
        return self._format

    @format.setter
    def format(self, tensor_format: Format) -> None:
        self._format = check_instance("format", tensor_format, Format)

    @property
    def element_num(self) -> int:
        """How many elements; 0 while a size is open."""
        return 0 if min(self._shape, default=0) < 0 else math.prod(self._shape)

    @property
    def data_size(self) -> int:
        """How many bytes; 0 while a size is open."""
        dtype = _NUMPY_OF.get(self._dtype)
        return self.element_num * dtype.itemsize if dtype is not None else 0

    @property
    def device(self) -> str:
        """'None:-1' for host memory, 'ascend:N' for what was asked for."""
        return self._device

    # --- its data ------------------------------------------------------------------------

    def get_data_to_numpy(self) -> Array:
        """The data, not copied, in the tensor's shape; the array keeps the memory alive. Before any
        are set they are zeros; where a size is open or 0, an empty array."""
        if min(self._shape, default=1) <= 0:
            return np.empty(0, _NUMPY_OF.get(self._dtype, np.dtype(np.float32)))
        if self._array is None:
            self._array = _zeros(self._shape, self._dtype)
        return self._array

    def set_data_from_numpy(self, numpy_obj: Array) -> None:
        """Use an array's memory as the data. It is not copied, unless it is not C-contiguous. The
        number of bytes must be the tensor's, the shape need not: the tensor keeps its own.

        TypeError when it is no array, or its dtype has no name here; RuntimeError when dtype or
        number of bytes are others than the tensor's.
        """
        if not isinstance(numpy_obj, np.ndarray):
            raise TypeError(f"numpy_obj must be numpy.ndarray, but got {type(numpy_obj)}.")
        dtype = _named(numpy_obj)
        if dtype is not self._dtype:
            raise RuntimeError(
                f"data type not equal! Numpy type: {numpy_obj.dtype.type}, "
                f"Tensor type: {self._dtype}"
            )
        if numpy_obj.nbytes != self.data_size:
            hint = " (a size is open: call resize() first)" if -1 in self._shape else ""
            raise RuntimeError(
                f"data size not equal! Numpy size: {numpy_obj.nbytes}, "
                f"Tensor size: {self.data_size}{hint}"
            )
        self._array = _in_rows(numpy_obj).reshape(self._shape)

    def array(self) -> Array | None:
        """The data as they were set, C-contiguous and in the tensor's shape; None before. weightd's
        own."""
        return self._array

    def _take(self, array: Array) -> None:
        """Be this output: copied into the memory that there is, which has room for it."""
        if self._array is None:
            self._keep(array)
        else:
            self._array.reshape(-1)[:] = array.reshape(-1)
            self._array = self._array.reshape(array.shape)
            self._shape = array.shape

    def _keep(self, array: Array) -> None:
        self._array, self._shape = array, array.shape
        self._dtype = data_type_of(array.dtype)

    def _change(self, dtype: DataType, shape: Shape) -> None:
        array, self._array = self._array, None
        self._dtype, self._shape = dtype, shape
        if array is None or array.dtype != _NUMPY_OF.get(dtype):
            return
        if array.nbytes == self.data_size:
            self._array = array.reshape(shape)


def _zeros(shape: Shape, dtype: DataType) -> Array:
    try:
        return np.zeros(shape, _NUMPY_OF.get(dtype, np.dtype(np.float32)))
    except MemoryError as error:
        raise RuntimeError(f"create tensor failed! Error is {error}") from error


def _source(tensor: object) -> Array:
    """What a new Tensor is made from."""
    if isinstance(tensor, Tensor):
        return tensor.get_data_to_numpy().copy().reshape(tensor._shape)
    if not isinstance(tensor, np.ndarray):
        raise TypeError(
            "tensor must be MindSpore Lite's Tensor._tensor or numpy ndarray, but got "
            f"{type(tensor)}."
        )
    _named(tensor)
    return _in_rows(tensor).reshape(tensor.shape)


def _in_rows(array: Array) -> Array:
    try:
        return np.ascontiguousarray(array)
    except MemoryError as error:
        raise RuntimeError(f"create tensor failed! Error is {error}") from error


def _named(array: Array) -> DataType:
    dtype = _OF_NUMPY.get(array.dtype)
    if dtype is None:
        raise TypeError(f"Unsupported numpy dtype value {array.dtype}")
    return dtype


def _check_agrees(tensor: Tensor, shape: list[int] | Shape | None, dtype: DataType | None) -> None:
    if shape is not None and list(shape) != tensor.shape:
        raise TypeError(
            f"user set shape is not equal numpy shape, user shape: {shape}, "
            f"numpy shape is: {tensor.shape}."
        )
    if dtype is not None and dtype is not tensor.dtype:
        raise TypeError(
            f"user set dtype is not equal numpy dtype, user dtype: {dtype}, "
            f"numpy dtype is: {tensor.dtype}."
        )


def _check_shape(shape: object, *, is_needed: bool = False) -> None:
    if shape is None and not is_needed:
        return
    if not isinstance(shape, list | tuple):
        raise TypeError(f"shape must be list or tuple, but got {type(shape)}.")
    for index, element in enumerate(shape):
        if not isinstance(element, int):
            raise TypeError(f"shape element must be int, but got {type(element)} at index {index}.")


def _checked_device(device: object) -> str:
    """The device as .device says it."""
    text = check_instance("device", device, str)
    kind, _, number = text.partition(":")
    if kind != "ascend":
        raise TypeError(
            f"now only support ascend device. device must be 'ascend:index', but got {text!r}."
        )
    if ":" in text and not number.lstrip("-").isdecimal():
        raise TypeError(f"device must be 'ascend:index', but got {text!r}.")
    if number.startswith("-"):
        raise TypeError(f"device id should >= 0. device is {text!r}.")
    try:
        resolve(["ascend"], os.environ)
    except WeightdError as error:
        raise RuntimeError(f"create tensor failed! Error is {error}") from error
    return f"ascend:{int(number or 0)}"


def _text(tensor: "Tensor | TensorMeta") -> str:
    return (
        f"name: {tensor.name},\n"
        f"dtype: {tensor.dtype},\n"
        f"shape: {tensor.shape},\n"
        f"format: {tensor.format},\n"
        f"element_num: {tensor.element_num},\n"
        f"data_size: {tensor.data_size}"
    )
