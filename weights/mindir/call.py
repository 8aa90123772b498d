"""What a translation sees: one node of a MindIR graph, its arguments, and how to write ONNX nodes.

Where an operator takes a setting as an argument in newer versions of MindSpore and as an attribute
in older ones, the accessors look at the argument first.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weightd.errors import UnsupportedModelError
from weightd.weights.arrays import Array, numpy_dtype
from weightd.weights.mindir.emitter import Emitter
from weightd.weights.mindir.graph import Node
from weightd.weights.mindir.inference import ONNX_DTYPES
from weightd.weights.mindir.proto import Constant, Monad, Opaque, TensorType, Type
from weightd.weights.mindir.values import Tensor, Untranslated, Value

# mindspore::TypeId, as Cast has it
_TYPE_IDS = {
    30: "bool",
    32: "int8",
    33: "int16",
    34: "int32",
    35: "int64",
    37: "uint8",
    38: "uint16",
    39: "uint32",
    40: "uint64",
    42: "float16",
    43: "float32",
    44: "float64",
    45: "bfloat16",
    48: "complex64",
    49: "complex128",
}


_MAX_CONSTANT = 2**22  # elements


class _Required:
    """Marks an argument without a default."""


REQUIRED: Final = _Required()


class Call:
    """One node that is being translated. args: what its inputs stand for, monads left out."""

    def __init__(self, node: Node, args: Sequence[Value], emitter: Emitter) -> None:
        self.op = node.op
        self.args = tuple(args)
        self.type: Type = node.type
        self._node = node
        self._emitter = emitter
        self._scope = node.scope.removeprefix("Default/") or node.op

    # --- what is declared ----------------------------------------------------------------

    @property
    def out(self) -> TensorType:
        """The declared type of the result, or of the first of several."""
        declared = self.type
        while isinstance(declared, tuple) and declared:
            declared = declared[0]
        if not isinstance(declared, TensorType):
            raise self.refused("the file does not declare what type it gives")
        return declared

    def outs(self) -> tuple[Type, ...]:
        """The declared types of several results."""
        return self.type if isinstance(self.type, tuple) else (self.type,)

    # --- tensors -------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Whether there is an argument here that is not None."""
        return index < len(self.args) and self.args[index] is not None

    def tensor(self, index: int) -> Tensor:
        """An argument as a tensor. Python's numbers have no dtype: operand() gives them one."""
        value = self._arg(index)
        match value:
            case Tensor():
                return value
            case np.ndarray():
                return self.constant(value)
            case _:
                raise self.refused(f"its argument {index} is {_described(value)}, not a tensor")

    def tensors(self, index: int) -> tuple[Tensor, ...]:
        """An argument that is a tuple of tensors."""
        value = self._arg(index)
        if not isinstance(value, tuple):
            raise self.refused(
                f"its argument {index} is {_described(value)}, not a tuple of tensors"
            )
        return tuple(self.as_tensor(item, f"of argument {index}") for item in value)

    def as_tensor(self, value: Value, what: str) -> Tensor:
        match value:
            case Tensor():
                return value
            case np.ndarray():
                return self.constant(value)
            case _:
                raise self.refused(f"a part {what} is {_described(value)}, not a tensor")

    def operand(self, index: int, dtype: str) -> Tensor:
        """An argument, a tensor or a number, as a tensor of this dtype."""
        value = self._arg(index)
        if isinstance(value, bool | int | float):
            return self.number_of(value, dtype)
        return self.cast(self.tensor(index), dtype)

    def number_of(self, value: float, dtype: str) -> Tensor:
        """A number as a constant of this dtype, without dimensions."""
        return self.constant(np.asarray(value).astype(numpy_dtype(dtype)))

    def rank(self, index: int = 0) -> int:
        shape = self.tensor(index).shape
        if shape is None:
            raise self.refused(f"the rank of its argument {index} is not declared")
        return len(shape)

    def static_shape(self, index: int = 0) -> tuple[int, ...]:
        """The argument's shape, all of it known."""
        shape = self.tensor(index).shape
        if shape is None or -1 in shape:
            raise self.refused(
                f"the shape of its argument {index} is open: export the model with fixed sizes here"
            )
        return shape

    # --- settings ------------------------------------------------------------------------

    def setting(
        self, index: int | None, name: str, default: Constant | _Required = REQUIRED
    ) -> Constant:
        """A constant: argument `index`, or the attribute `name`, or the default."""
        if index is not None and index < len(self.args):
            value = self.args[index]
            if isinstance(value, Tensor | Untranslated) or _is_computed(value):
                raise self.refused(
                    f"{name} is computed while the model runs; only a constant will do"
                )
            found: Constant = value  # type: ignore[assignment]  # the rest are constants
        elif name in self._node.attributes:
            found = self._node.attributes[name]
        elif isinstance(default, _Required):
            raise self.refused(f"the file does not say its {name}")
        else:
            return default
        if isinstance(found, Opaque):
            raise self.refused(f"its {name} is of kind {found.kind}, which is not understood")
        return found

    def has_attribute(self, name: str) -> bool:
        return name in self._node.attributes

    def flag(self, index: int | None, name: str, default: bool | _Required = REQUIRED) -> bool:
        return bool(self._number(index, name, default))

    def integer(self, index: int | None, name: str, default: int | _Required = REQUIRED) -> int:
        value = self._number(index, name, default)
        if int(value) != value:
            raise self.refused(f"its {name} is {value}, not a whole number")
        return int(value)

    def number(self, index: int | None, name: str, default: float | _Required = REQUIRED) -> float:
        return float(self._number(index, name, default))

    def text(self, index: int | None, name: str, default: str | _Required = REQUIRED) -> str:
        value = self.setting(index, name, default)
        if not isinstance(value, str):
            raise self.refused(f"its {name} is {_described(value)}, not a text")
        return value

    def integers(
        self, index: int | None, name: str, default: tuple[int, ...] | _Required = REQUIRED
    ) -> tuple[int, ...]:
        """A tuple of whole numbers; one number is a tuple of one."""
        value = self.setting(index, name, default)
        if isinstance(value, np.ndarray):
            value = tuple(value.reshape(-1).tolist())
        items = value if isinstance(value, tuple) else (value,)
        numbers = [item for item in items if isinstance(item, int)]
        if len(numbers) != len(items):
            raise self.refused(f"its {name} is {_described(value)}, not a tuple of whole numbers")
        return tuple(int(number) for number in numbers)

    def dtype(self, index: int | None, name: str, default: str | _Required = REQUIRED) -> str:
        """A dtype, which newer files give by MindSpore's number for it."""
        value = self.setting(index, name, default)
        if isinstance(value, TensorType):
            return value.dtype
        if isinstance(value, str):
            return value
        found = _TYPE_IDS.get(value) if isinstance(value, int) else None
        if found is None:
            raise self.refused(
                f"its {name} is {_described(value)}, which is no dtype that is known"
            )
        return found

    def is_none(self, index: int, name: str) -> bool:
        """Whether a setting is absent, or None."""
        return self.setting(index, name, None) is None

    def _number(self, index: int | None, name: str, default: float | _Required) -> int | float:
        value = self.setting(index, name, default)
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0].item()
        if not isinstance(value, bool | int | float):
            raise self.refused(f"its {name} is {_described(value)}, not a number")
        return value

    def vector(self, index: int) -> Tensor:
        """An argument that is a tuple of whole numbers, or a tensor of them, as an int64 vector.
        Any of them may be computed."""
        value = self._arg(index)
        if isinstance(value, Tensor | np.ndarray):
            found = self.cast(self.tensor(index), "int64")
            return found if len(found.shape or ()) == 1 else self.reshaped(found, [-1])
        return self.joined(value if isinstance(value, tuple) else (value,), f"its argument {index}")

    def joined(self, values: Sequence[Value], what: str) -> Tensor:
        """Whole numbers, known or computed, as an int64 vector."""
        if all(isinstance(value, int) for value in values):
            return self.constant(np.array(values, np.int64))
        parts = [self.reshaped(self.scalar(value, what), [1]) for value in values]
        return self.made("Concat", parts, "int64", (len(parts),), axis=0)

    def scalar(self, value: Value, what: str) -> Tensor:
        """A whole number, known or computed, as an int64 tensor of one element."""
        match value:
            case bool() | int():
                return self.constant(np.array(int(value), np.int64))
            case np.ndarray() if value.size == 1:
                return self.constant(value.astype(np.int64))
            case Tensor():
                return self.cast(value, "int64")
            case _:
                raise self.refused(f"{what} has {_described(value)} where a whole number belongs")

    # --- writing -------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Tensor | Array | None, **attributes: Any) -> str:
        """Write an ONNX node with one output, whose name it gives. None: an input left out."""
        return self.emit_all(op, inputs, 1, **attributes)[0]

    def emit_all(
        self, op: str, inputs: Sequence[Tensor | Array | None], outputs: int, **attributes: Any
    ) -> list[str]:
        """Write an ONNX node with several outputs."""
        names = [self._input_name(value) for value in inputs]
        return self._emitter.emit(op, names, self._scope, outputs, **attributes)

    def made(
        self,
        op: str,
        inputs: Sequence[Tensor | Array | None],
        dtype: str,
        shape: tuple[int, ...] | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Write a node whose result is used further in the same translation."""
        name = self.emit(op, *inputs, **attributes)
        found = self._emitter.type_of(name)
        return Tensor(name, dtype, found.shape if shape is None and found else shape)

    def filled(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:
        """A constant of one number, of a size that the file says."""
        self.check_size(shape)
        return self.constant(np.full(shape, value, numpy_dtype(dtype)))

    def check_size(self, shape: Sequence[int]) -> None:
        """Refuse to make a constant that is larger than any real one."""
        if min(shape, default=0) < 0 or math.prod(shape) > _MAX_CONSTANT:
            raise self.refused(f"it asks for a constant of the size {list(shape)}")

    def named(self, name: str, dtype: str) -> Tensor:
        """A value that was written, of the result's shape."""
        return Tensor(name, dtype, self.out.shape)

    def constant(self, array: Array) -> Tensor:
        return self._emitter.constant(array, f"{self._scope}:constant")

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """The tensor itself when it is of this dtype."""
        if tensor.dtype == dtype:
            return tensor
        return self.made("Cast", [tensor], dtype, tensor.shape, to=ONNX_DTYPES[dtype])

    def reshaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """-1 for one size that follows from the others."""
        target = self.constant(np.array(shape, np.int64))
        return self.made("Reshape", [tensor, target], tensor.dtype, tuple(shape), allowzero=1)

    def refused(self, why: str) -> UnsupportedModelError:
        """What to raise; it names the operator and where it stands."""
        return refused(self._node, why)

    def _arg(self, index: int) -> Value:
        if index >= len(self.args):
            raise self.refused(f"it has {len(self.args)} arguments; number {index} is missing")
        value = self.args[index]
        if isinstance(value, Untranslated):
            raise self.refused(value.why)
        return value

    def _input_name(self, value: Tensor | Array | None) -> str:
        if value is None:
            return ""
        return (value if isinstance(value, Tensor) else self.constant(value)).name


def refused(node: Node, why: str) -> UnsupportedModelError:
    """A refusal that names the operator and where it stands."""
    return UnsupportedModelError(f"{node.op or 'a call'} at {node.scope or '?'}: {why}")


def _is_computed(value: Value) -> bool:
    return isinstance(value, tuple) and any(isinstance(v, Tensor) or _is_computed(v) for v in value)


def _described(value: Value) -> str:
    match value:
        case None | bool() | int() | float() | str():
            return repr(value)[:80]
        case np.ndarray():
            return f"a constant {value.dtype}{list(value.shape)}"
        case Tensor():
            return f"{value.dtype}{'[?]' if value.shape is None else list(value.shape)}"
        case Monad():
            return "nothing"
        case _:
            return f"a {type(value).__name__}"
