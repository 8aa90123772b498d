"""Whole numbers that are computed while the model runs, as sizes are: known ones by Python, the
others by int64 nodes."""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from weightd.weights.arrays import numpy_dtype
from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.arithmetic import floor_divided
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.proto import TensorType
from weightd.weights.mindir.values import Tensor, Value

Number = bool | int | float

# Of numbers with a fraction. MindSpore 1 declares them whole: what contradicts it is refused.
_REAL = "float32"
_OF_REALS = frozenset({"Add", "Sub", "Mul", "Max", "Min"})


def _computed(known: Callable[[Any, Any], Number], op: str) -> Translation:
    """A sum or product of two numbers, or a comparison of whole ones."""

    def translate(call: Call) -> Result:
        if all(isinstance(value, Number) for value in call.args[:2]):
            return known(*call.args[:2])
        if op in _OF_REALS and any(map(_is_real, call.args[:2])):
            return call.made(op, [call.operand(index, _REAL) for index in (0, 1)], _REAL, ())
        return call.emit(op, *_whole(call))

    return translate


def _whole(call: Call) -> tuple[Tensor, Tensor]:
    for value in call.args[:2]:
        if _is_real(value):
            raise call.refused("only whole numbers are divided or compared while the model runs")
    return call.scalar(call.args[0], "it"), call.scalar(call.args[1], "it")


def _is_real(value: Value) -> bool:
    return isinstance(value, float) or (isinstance(value, Tensor) and "float" in value.dtype)


def _floor_div(call: Call) -> Result:
    if all(isinstance(value, Number) for value in call.args[:2]):
        return _checked(call, operator.floordiv)
    return floor_divided(call, *_whole(call)).name


def _checked(call: Call, operation: Callable[[Any, Any], Number]) -> Result:
    try:
        return operation(*call.args[:2])
    except ArithmeticError as error:
        raise call.refused(f"it cannot be computed: {error}") from error


def _mod(call: Call) -> Result:
    """Python's: the sign of the divisor, as ONNX's."""
    if all(isinstance(value, Number) for value in call.args[:2]):
        return _checked(call, operator.mod)
    return call.emit("Mod", *_whole(call))


def _div(call: Call) -> Result:
    """A quotient is never whole, whatever is divided; it is rounded once."""
    if all(isinstance(value, Number) for value in call.args[:2]):
        return _checked(call, operator.truediv)
    return _in_double(call, "Div")


def _pow(call: Call) -> Result:
    if any(map(_is_real, call.args[:2])):
        return _in_double(call, "Pow")
    return call.emit("Pow", *_whole(call))


def _in_double(call: Call, op: str) -> Result:
    operands = [call.operand(index, "float64") for index in (0, 1)]
    return call.cast(call.made(op, operands, "float64", ()), _REAL)


def _negative(call: Call) -> Result:
    value = call.args[0]
    if isinstance(value, Number):
        return -value
    return call.emit("Neg", call.tensor(0))


def _shape(call: Call) -> Result:
    """Each size: known, or taken while the model runs."""
    x = call.tensor(0)
    if x.shape is None:
        raise call.refused("the rank of its argument is not declared")
    if -1 not in x.shape:
        return tuple(x.shape)
    sizes = call.made("Shape", [x], "int64", (len(x.shape),))
    return tuple(
        size if size >= 0 else call.made("Gather", [sizes, np.array(axis)], "int64", (), axis=0)
        for axis, size in enumerate(x.shape)
    )


def _tensor_shape(call: Call) -> Result:
    return call.cast(call.made("Shape", [call.tensor(0)], "int64"), call.out.dtype)


def _size(call: Call) -> Result:
    shape = call.tensor(0).shape
    if shape is not None and -1 not in shape:
        return math.prod(shape)
    return call.made("Size", [call.tensor(0)], "int64", ())


def _rank(call: Call) -> Result:
    return call.rank(0)


def _to_tensor(call: Call) -> Result:
    """A number, or a tuple of them, as a tensor of the declared type."""
    dtype = call.out.dtype
    value = call.args[0]
    if isinstance(value, Number):
        return call.number_of(value, dtype)
    if isinstance(value, tuple):
        if all(isinstance(item, Number) for item in value):
            return call.constant(np.array(value).astype(numpy_dtype(dtype)))
        return call.cast(call.joined(value, "it"), dtype)
    if isinstance(value, Tensor) and value.shape not in ((), None):
        raise call.refused("its argument is a tensor already")
    return call.cast(call.tensor(0), dtype)


def _to_scalar(call: Call) -> Result:
    value = call.args[0]
    if isinstance(value, np.ndarray) and value.size == 1:
        number: Number = value.reshape(-1)[0].item()
        return number
    return call.reshaped(call.tensor(0), [])


def _to_tuple(call: Call) -> Result:
    """A vector as its numbers, which the file declares how many they are."""
    value = call.args[0]
    if isinstance(value, np.ndarray):
        return tuple(value.reshape(-1).tolist())
    vector = call.tensor(0)
    count = (vector.shape or (-1,))[0]
    if count < 0:
        raise call.refused("how many numbers it has is known only when the model runs")
    return tuple(
        call.made("Gather", [vector, np.array(index)], vector.dtype, (), axis=0)
        for index in range(count)
    )


def _scalar_cast(call: Call) -> Result:
    value, declared = call.args[0], call.type
    if isinstance(declared, TensorType) and isinstance(value, Tensor):
        return call.cast(value, declared.dtype)
    dtype = call.dtype(1, "dtype", "int64")
    if isinstance(value, Number):
        return float(value) if "float" in dtype else int(value)
    return call.cast(call.tensor(0), dtype)


def _sequence(call: Call, index: int = 0) -> tuple[Value, ...]:
    value = call.args[index]
    if not isinstance(value, tuple):
        raise call.refused("its argument is no tuple")
    return value


def _sequence_add(call: Call) -> Result:
    return _sequence(call) + _sequence(call, 1)


def _sequence_slice(call: Call) -> Result:
    parts = [call.integer(index, name) for index, name in ((1, "start"), (2, "stop"), (3, "step"))]
    return _sequence(call)[slice(*parts)]


def _in_sequence(call: Call) -> Result:
    """Whether a known number is one of a tuple's."""
    known = (call.args[0], *_sequence(call, 1))
    if not all(isinstance(value, bool | int | float | str) for value in known):
        raise call.refused("it asks for a number that is computed while the model runs")
    return known[0] in known[1:]


def _bool_not(call: Call) -> Result:
    if isinstance(call.args[0], Number):
        return not call.args[0]
    return call.emit("Not", call.operand(0, "bool"))


def _sequence_len(call: Call) -> Result:
    return len(_sequence(call))


def _sequence_mul(call: Call) -> Result:
    """The same items so many times."""
    items, count = _sequence(call), call.integer(1, "scalar")
    call.check_size([len(items), max(count, 0)])
    return items * count


def _sequence_equal(call: Call) -> Result:
    """Whether two tuples of sizes are the same. Two that are known are compared here, and what is
    computed is the same where it is one and the same value."""
    one, other = _sequence(call), _sequence(call, 1)
    if len(one) != len(other):
        return False
    computed = []
    for pair in zip(one, other, strict=True):
        if not all(isinstance(value, Number | Tensor) for value in pair):
            raise call.refused("it compares what are no numbers")
        if any(isinstance(value, Tensor) for value in pair):
            computed.append(pair)
        elif pair[0] != pair[1]:
            return False
    return _all_equal(call, [pair for pair in computed if pair[0] != pair[1]])


def _all_equal(call: Call, pairs: list[tuple[Value, Value]]) -> Result:
    if not pairs:
        return True
    sides = [call.joined(side, "it") for side in zip(*pairs, strict=True)]
    is_equal = call.cast(call.made("Equal", sides, "bool"), "int64")
    return call.cast(call.made("ReduceMin", [is_equal], "int64", (), keepdims=0), "bool")


OPS: dict[str, Translation] = {
    "ScalarAdd": _computed(operator.add, "Add"),
    "ScalarSub": _computed(operator.sub, "Sub"),
    "ScalarMul": _computed(operator.mul, "Mul"),
    "ScalarMax": _computed(max, "Max"),
    "ScalarMin": _computed(min, "Min"),
    "ScalarFloorDiv": _floor_div,
    "ScalarMod": _mod,
    "ScalarDiv": _div,
    "ScalarPow": _pow,
    "ScalarUsub": _negative,
    "ScalarEq": _computed(operator.eq, "Equal"),
    "ScalarGt": _computed(operator.gt, "Greater"),
    "ScalarGe": _computed(operator.ge, "GreaterOrEqual"),
    "ScalarLt": _computed(operator.lt, "Less"),
    "ScalarLe": _computed(operator.le, "LessOrEqual"),
    "ScalarCast": _scalar_cast,
    **dict.fromkeys(("Shape", "DynamicShape"), _shape),
    "TensorShape": _tensor_shape,
    "Size": _size,
    "Rank": _rank,
    **dict.fromkeys(("ScalarToTensor", "TupleToTensor", "ListToTensor"), _to_tensor),
    "TensorToScalar": _to_scalar,
    **dict.fromkeys(("TensorToTuple", "TensorToList"), _to_tuple),
    "InSequence": _in_sequence,
    "BoolNot": _bool_not,
    "SequenceAdd": _sequence_add,
    "SequenceSlice": _sequence_slice,
    "SequenceMul": _sequence_mul,
    **dict.fromkeys(("SequenceLen", "sequence_len"), _sequence_len),
    **dict.fromkeys(("tuple_equal", "list_equal"), _sequence_equal),
}
