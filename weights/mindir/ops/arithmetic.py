"""Arithmetic, element by element, with the dtypes that MindSpore computes in.

MindSpore writes most of its promotions into the file, as Casts. Where an operand is a Python number
it does not: the result's dtype says in which one to compute.
"""

import math
from collections.abc import Callable

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import (
    Result,
    Translation,
    binary,
    floating,
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
    return narrowed(call, _truncated(call, quotient).name, call.out.dtype)


def _truncated(call: Call, x: Tensor) -> Tensor:
    """Rounded towards zero."""
    if is_whole(x.dtype):
        return x
    magnitude = call.made("Floor", [call.made("Abs", [x], x.dtype)], x.dtype)
    return call.made("Mul", [call.made("Sign", [x], x.dtype), magnitude], x.dtype)


def _trunc(call: Call) -> Result:
    return _truncated(call, call.tensor(0))


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


def _rounding(op: str) -> Translation:
    """Whole numbers are round already."""

    def translate(call: Call) -> Result:
        x = call.tensor(0)
        return x if is_whole(x.dtype) else call.emit(op, x)

    return translate


def _round(call: Call) -> Result:
    """Halves go to the even neighbour, in both."""
    x = call.tensor(0)
    decimals = call.integer(1, "decimals", 0)
    if decimals:
        raise call.refused(f"it rounds to {decimals} decimals; only whole numbers are translated")
    return x if is_whole(x.dtype) else call.emit("Round", x)


def _rsqrt(call: Call) -> Result:
    x = call.operand(0, call.out.dtype)
    return call.emit("Reciprocal", call.made("Sqrt", [x], x.dtype))


def _log(base: float) -> Translation:
    def translate(call: Call) -> Result:
        x = call.operand(0, call.out.dtype)
        scale = call.number_of(1 / math.log(base), x.dtype)
        return call.emit("Mul", call.made("Log", [x], x.dtype), scale)

    return translate


def _log1p(call: Call, x: Tensor) -> Tensor:
    """In float64, whose sum with 1 keeps a float32's digits."""
    wide = call.cast(x, "float64")
    total = call.made("Add", [wide, call.number_of(1, "float64")], "float64")
    return call.cast(call.made("Log", [total], "float64"), x.dtype)


def _expm1(call: Call) -> Result:
    x = call.operand(0, call.out.dtype)
    power = call.made("Exp", [call.cast(x, "float64")], "float64")
    rest = call.made("Sub", [power, call.number_of(1, "float64")], "float64")
    return call.cast(rest, x.dtype)


def _exp2(call: Call) -> Result:
    dtype = call.out.dtype
    return call.emit("Pow", call.number_of(2, dtype), call.operand(0, dtype))


def _in_float64(make: Callable[[Call, Tensor], Tensor]) -> Translation:
    """A composition that would lose a float32's digits."""

    def translate(call: Call) -> Result:
        return call.cast(make(call, call.operand(0, "float64")), call.out.dtype)

    return translate


def _doubles(call: Call, op: str, *parts: Tensor | float) -> Tensor:
    """A node over float64."""
    tensors = [p if isinstance(p, Tensor) else call.number_of(p, "float64") for p in parts]
    return call.made(op, tensors, "float64")


def _asinh(call: Call, x: Tensor) -> Tensor:
    """sign(x) log(|x| + sqrt(x^2 + 1))"""
    size = _doubles(call, "Abs", x)
    root = _doubles(call, "Sqrt", _doubles(call, "Add", _doubles(call, "Mul", x, x), 1))
    log = _doubles(call, "Log", _doubles(call, "Add", size, root))
    return _doubles(call, "Mul", _doubles(call, "Sign", x), log)


def _acosh(call: Call, x: Tensor) -> Tensor:
    """log(x + sqrt(x^2 - 1))"""
    root = _doubles(call, "Sqrt", _doubles(call, "Sub", _doubles(call, "Mul", x, x), 1))
    return _doubles(call, "Log", _doubles(call, "Add", x, root))


def _atanh(call: Call, x: Tensor) -> Tensor:
    """log((1 + x) / (1 - x)) / 2"""
    one = call.number_of(1, "float64")
    ratio = _doubles(call, "Div", _doubles(call, "Add", one, x), _doubles(call, "Sub", one, x))
    return _doubles(call, "Mul", _doubles(call, "Log", ratio), 0.5)


def _sinh(call: Call, x: Tensor) -> Tensor:
    """(e^x - e^-x) / 2"""
    powers = _doubles(call, "Exp", x), _doubles(call, "Exp", _doubles(call, "Neg", x))
    return _doubles(call, "Mul", _doubles(call, "Sub", *powers), 0.5)


def _erfc(call: Call) -> Result:
    x = call.operand(0, call.out.dtype)
    return call.emit("Sub", call.number_of(1, x.dtype), call.made("Erf", [x], x.dtype))


def _atan2(call: Call) -> Result:
    """Of y and x: the angle of the half plane, put right by the signs."""
    dtype = call.out.dtype
    y, x = call.operand(0, dtype), call.operand(1, dtype)
    zero = call.number_of(0, dtype)
    angle = call.made("Atan", [call.made("Div", [y, x], dtype)], dtype)
    y_below = call.made("Less", [y, zero], "bool")
    turn = call.made(
        "Where", [y_below, *(call.number_of(n, dtype) for n in (-math.pi, math.pi))], dtype
    )
    x_below = call.made("Less", [x, zero], "bool")
    turned = call.made("Where", [x_below, call.made("Add", [angle, turn], dtype), angle], dtype)
    # 0 / 0 has no angle of its own; MindSpore says 0 there.
    both = [call.made("Equal", [part, zero], "bool") for part in (x, y)]
    return call.emit("Where", call.made("And", both, "bool"), zero, turned)


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


def _is_finite(call: Call) -> Result:
    x = call.tensor(0)
    if is_whole(x.dtype) or x.dtype == "bool":
        return call.emit("Equal", x, x)
    odd = [call.made(op, [x], "bool") for op in ("IsInf", "IsNaN")]
    return call.emit("Not", call.made("Or", odd, "bool"))


def _frac(call: Call) -> Result:
    x = call.tensor(0)
    return call.emit("Sub", x, _truncated(call, x))


OPS: dict[str, Translation] = {
    **dict.fromkeys(("Add", "Adds", "AddExt", "AddScalar"), _scaled_sum("Add")),
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
    **dict.fromkeys(("Trunc",), _trunc),
    "Frac": _frac,
    **dict.fromkeys(("Pow", "PowTensorScalar", "PowScalarTensor"), _power),
    **dict.fromkeys(
        ("Xlogy", "XLogYScalarOther", "XLogYScalarSelf"),
        _x_log_y,
    ),
    "Xdivy": _div_no_nan,
    "SquaredDifference": _squared_difference,
    "Square": _square,
    **{op: _same_dtype(op) for op in ("Neg", "Abs", "Sign")},
    **{op: _rounding(op) for op in ("Ceil", "Floor")},
    **dict.fromkeys(("Round", "Rint"), _round),
    **{op: floating(op) for op in ("Sqrt", "Exp", "Log", "Reciprocal", "Erf", "Sin", "Cos", "Tan")},
    **dict.fromkeys(("Inv",), floating("Reciprocal")),
    "Rsqrt": _rsqrt,
    "Log2": _log(2),
    "Log10": _log(10),
    "Log1p": lambda call: _log1p(call, call.operand(0, call.out.dtype)),
    "Expm1": _expm1,
    "Exp2": _exp2,
    "Erfc": _erfc,
    **dict.fromkeys(("Asin", "AsinExt"), floating("Asin")),
    **dict.fromkeys(("ACos", "AcosExt"), floating("Acos")),
    **dict.fromkeys(("Atan", "AtanExt"), floating("Atan")),
    "Sinh": _in_float64(_sinh),
    "Cosh": floating("Cosh"),
    **dict.fromkeys(("Asinh", "AsinhExt"), _in_float64(_asinh)),
    **dict.fromkeys(("Acosh", "AcoshExt"), _in_float64(_acosh)),
    "Atanh": _in_float64(_atanh),
    **dict.fromkeys(("Atan2", "Atan2Ext"), _atan2),
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
    "IsNan": lambda call: call.emit("IsNaN", call.tensor(0)),
    "IsInf": lambda call: call.emit("IsInf", call.tensor(0)),
    "IsFinite": _is_finite,
}
