"""Arithmetic, element by element, with the dtypes that MindSpore computes in.

MindSpore writes most of its promotions into the file, as Casts. Where an operand is a Python number
it does not: the result's dtype says in which one to compute.
"""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import (
    Result,
    Translation,
    binary,
    narrowed,
    wide_of,
)
from weightd.weights.mindir.values import Tensor

_ONE_AND_OTHER = (0, 1)


def operands(call: Call) -> tuple[Tensor, Tensor, str]:
    """Both arguments in the dtype to compute in, and that."""
    wide = wide_of(call.out.dtype)
    return call.operand(0, wide), call.operand(1, wide), wide


def is_whole(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _divided(call: Call) -> Result:
    """Of whole numbers the quotient rounds towards zero, as in MindSpore."""
    one, other, _ = operands(call)
    return narrowed(call, call.emit("Div", one, other), call.out.dtype)


def _real_divided(call: Call) -> Result:
    dtype = call.out.dtype
    if is_whole(dtype):
        return _divided(call)
    return call.emit("Div", call.operand(0, dtype), call.operand(1, dtype))


def floor_divided(call: Call, one: Tensor, other: Tensor) -> Tensor:
    """The quotient rounded down. Python's and MindSpore's rule for negative numbers."""
    quotient = call.made("Div", [one, other], one.dtype)
    if not is_whole(one.dtype):
        return call.made("Floor", [quotient], one.dtype)
    # Div rounds towards zero: one less where signs differ and something is left.
    rest = call.made("Sub", [one, call.made("Mul", [quotient, other], one.dtype)], one.dtype)
    zero = call.number_of(0, one.dtype)
    left = call.made("Not", [call.made("Equal", [rest, zero], "bool")], "bool")
    signs = [call.made("Less", [part, zero], "bool") for part in (rest, other)]
    less = call.made("And", [left, call.made("Xor", signs, "bool")], "bool")
    return call.made("Sub", [quotient, call.cast(less, one.dtype)], one.dtype)


def _floor_div(call: Call) -> Result:
    one, other, _ = operands(call)
    return narrowed(call, floor_divided(call, one, other).name, call.out.dtype)


def _floor_mod(call: Call) -> Result:
    """What is left has the sign of the divisor."""
    one, other, wide = operands(call)
    if is_whole(wide):
        return narrowed(call, call.emit("Mod", one, other), call.out.dtype)
    # x - floor(x / y) * y loses digits; MindSpore corrects the sign of fmod.
    rest = call.made("Mod", [one, other], wide, fmod=1)
    zero = call.number_of(0, wide)
    signs = [call.made("Less", [part, zero], "bool") for part in (rest, other)]
    differ = call.made("Xor", signs, "bool")
    is_left = call.made("Not", [call.made("Equal", [rest, zero], "bool")], "bool")
    wrong = call.made("And", [differ, is_left], "bool")
    return call.emit("Where", wrong, call.made("Add", [rest, other], wide), rest)


def _truncated_mod(call: Call) -> Result:
    """What is left has the sign of the dividend."""
    one, other, _ = operands(call)
    return narrowed(call, call.emit("Mod", one, other, fmod=1), call.out.dtype)


def _truncate_div(call: Call) -> Result:
    one, other, wide = operands(call)
    quotient = call.made("Div", [one, other], wide)
    return narrowed(call, truncated(call, quotient).name, call.out.dtype)


def truncated(call: Call, x: Tensor) -> Tensor:
    """Rounded towards zero."""
    if is_whole(x.dtype):
        return x
    magnitude = call.made("Floor", [call.made("Abs", [x], x.dtype)], x.dtype)
    return call.made("Mul", [call.made("Sign", [x], x.dtype), magnitude], x.dtype)


def _div_mod(call: Call) -> Result:
    mode = call.setting(2, "rounding_mode", None)
    if mode is None:
        return _real_divided(call)
    translation = _ROUNDING.get(mode) if isinstance(mode, int | str) else None
    if translation is None:
        raise call.refused(f"its rounding_mode is {mode!r}")
    return translation(call)


# mindspore::ops::RoundingMode, or its name
_ROUNDING: dict[int | str, Translation] = {
    1: _truncate_div,
    "trunc": _truncate_div,
    2: _floor_div,
    "floor": _floor_div,
}


def _div_no_nan(call: Call) -> Result:
    """0 where the divisor is 0."""
    one, other, wide = operands(call)
    zero, unit = call.number_of(0, wide), call.number_of(1, wide)
    is_zero = call.made("Equal", [other, zero], "bool")
    safe = call.made("Where", [is_zero, unit, other], wide)
    quotient = call.made("Div", [one, safe], wide)
    return narrowed(call, call.emit("Where", is_zero, zero, quotient), call.out.dtype)


def _x_log_y(call: Call) -> Result:
    """x log(y), which is NaN for x and y of 0, as in MindSpore."""
    dtype = call.out.dtype
    y = call.operand(1, dtype)
    return call.emit("Mul", call.operand(0, dtype), call.made("Log", [y], dtype))


def _power(call: Call) -> Result:
    """In the result's dtype, whole numbers too, as MindSpore has it."""
    dtype = call.out.dtype
    if is_whole(dtype) or dtype == "bool":
        exact = call.operand(0, "float64"), call.operand(1, "float64")
        return call.cast(call.made("Pow", exact, "float64"), dtype)
    return call.emit("Pow", call.operand(0, dtype), call.operand(1, dtype))


def _scaled_sum(op: str) -> Translation:
    """one + alpha * other, or one - alpha * other."""

    def translate(call: Call) -> Result:
        one, other, wide = operands(call)
        if call.has(2):
            alpha = call.number(2, "alpha", 1)
            if alpha != 1:
                other = call.made("Mul", [other, call.number_of(alpha, wide)], wide)
        if call.out.dtype == "bool":
            return call.emit("Or", call.operand(0, "bool"), call.operand(1, "bool"))
        return narrowed(call, call.emit(op, one, other), call.out.dtype)

    return translate


def _squared_difference(call: Call) -> Result:
    one, other, wide = operands(call)
    difference = call.made("Sub", [one, other], wide)
    return narrowed(call, call.emit("Mul", difference, difference), call.out.dtype)


def _square(call: Call) -> Result:
    x = call.operand(0, wide_of(call.out.dtype))
    return narrowed(call, call.emit("Mul", x, x), call.out.dtype)


def _same_dtype(op: str) -> Translation:
    """One node over one argument that keeps its dtype; narrow whole numbers go by int32."""

    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        return narrowed(call, call.emit(op, call.operand(0, wide_of(dtype))), dtype)

    return translate


def _extreme(op: str) -> Translation:
    def translate(call: Call) -> Result:
        one, other, _ = operands(call)
        return narrowed(call, call.emit(op, one, other), call.out.dtype)

    return translate


def _clamped(call: Call) -> Result:
    """Between two bounds, either of which may be missing."""
    dtype = call.out.dtype
    x = call.operand(0, wide_of(dtype))
    for index, op in ((1, "Max"), (2, "Min")):
        if call.has(index):
            x = call.made(op, [x, call.operand(index, x.dtype)], x.dtype)
    return call.cast(x, dtype)


def _added(call: Call) -> Result:
    """Of a tuple of tensors."""
    parts = call.tensors(0)
    dtype = call.out.dtype
    total = call.cast(parts[0], wide_of(dtype))
    for part in parts[1:]:
        total = call.made("Add", [total, call.cast(part, total.dtype)], total.dtype)
    return call.cast(total, dtype)


def _fused(op: str) -> Translation:
    """x + value * (one op other)."""

    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        x, one, other = (call.operand(index, dtype) for index in range(3))
        term = call.made(op, [one, other], dtype)
        if call.has(3):
            term = call.made("Mul", [term, call.operand(3, dtype)], dtype)
        return call.emit("Add", x, term)

    return translate


def _lerp(call: Call) -> Result:
    dtype = call.out.dtype
    start, end, weight = (call.operand(index, dtype) for index in range(3))
    step = call.made("Mul", [weight, call.made("Sub", [end, start], dtype)], dtype)
    return call.emit("Add", start, step)


def _cast(call: Call) -> Result:
    return call.cast(call.tensor(0), call.out.dtype)


def _bitwise(op: str) -> Translation:
    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        if dtype == "bool":
            op_of_bools = {"BitwiseAnd": "And", "BitwiseOr": "Or", "BitwiseXor": "Xor"}[op]
            return call.emit(op_of_bools, call.operand(0, "bool"), call.operand(1, "bool"))
        return call.emit(op, call.operand(0, dtype), call.operand(1, dtype))

    return translate


def _bitwise_not(call: Call) -> Result:
    x = call.tensor(0)
    return call.emit("Not" if x.dtype == "bool" else "BitwiseNot", x)


OPS: dict[str, Translation] = {
    **dict.fromkeys(("Add", "Adds", "AddExt", "AddScalar", "TensorAdd"), _scaled_sum("Add")),
    **dict.fromkeys(("Sub", "Subs", "SubExt", "SubScalar"), _scaled_sum("Sub")),
    **dict.fromkeys(("Mul", "Muls"), binary("Mul")),
    **dict.fromkeys(("Div", "RealDiv", "Divs"), _real_divided),
    "DivNoNan": _div_no_nan,
    **dict.fromkeys(("DivMod", "DivMods"), _div_mod),
    **dict.fromkeys(("FloorDiv", "FloorDivScalar"), _floor_div),
    **dict.fromkeys(
        (
            "FloorMod",
            "RemainderTensorTensor",
            "RemainderTensorScalar",
            "RemainderScalarTensor",
        ),
        _floor_mod,
    ),
    **dict.fromkeys(("Mod", "TruncateMod", "FmodTensor", "FmodScalar"), _truncated_mod),
    "TruncateDiv": _truncate_div,
    **dict.fromkeys(("Pow", "PowTensorScalar", "PowScalarTensor"), _power),
    **dict.fromkeys(
        ("Xlogy", "XLogYScalarOther", "XLogYScalarSelf"),
        _x_log_y,
    ),
    "Xdivy": _div_no_nan,
    "SquaredDifference": _squared_difference,
    "Square": _square,
    **{op: _same_dtype(op) for op in ("Neg", "Abs", "Sign")},
    "Maximum": _extreme("Max"),
    "Minimum": _extreme("Min"),
    **dict.fromkeys(("ClampTensor", "ClampScalar", "ClipByValue"), _clamped),
    **dict.fromkeys(("AddN", "AccumulateNV2"), _added),
    **dict.fromkeys(("Addcmul", "AddcmulExt"), _fused("Mul")),
    **dict.fromkeys(("Addcdiv", "AddcdivExt"), _fused("Div")),
    **dict.fromkeys(("Lerp", "LerpScalar"), _lerp),
    **dict.fromkeys(("Cast", "ToDtype"), _cast),
    **dict.fromkeys(("BitwiseAnd", "BitwiseAndTensor", "BitwiseAndScalar"), _bitwise("BitwiseAnd")),
    **dict.fromkeys(("BitwiseOr", "BitwiseOrTensor", "BitwiseOrScalar"), _bitwise("BitwiseOr")),
    **dict.fromkeys(("BitwiseXor", "BitwiseXorTensor", "BitwiseXorScalar"), _bitwise("BitwiseXor")),
    "BitwiseNot": _bitwise_not,
}
