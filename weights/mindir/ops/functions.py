"""Functions of one number: roots, logarithms, trigonometry, rounding, and what is finite.

MindSpore computes some of them more exactly than onnxruntime's float32, which has few of them in
float64: those are put together in float64 from what there is.
"""

import math
from collections.abc import Callable

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.arithmetic import is_whole, truncated
from weightd.weights.mindir.ops.translation import Result, Translation, floating
from weightd.weights.mindir.values import Tensor


def _trunc(call: Call) -> Result:
    return truncated(call, call.tensor(0))


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


def _is_finite(call: Call) -> Result:
    x = call.tensor(0)
    if is_whole(x.dtype) or x.dtype == "bool":
        return call.emit("Equal", x, x)
    odd = [call.made(op, [x], "bool") for op in ("IsInf", "IsNaN")]
    return call.emit("Not", call.made("Or", odd, "bool"))


def _frac(call: Call) -> Result:
    x = call.tensor(0)
    return call.emit("Sub", x, truncated(call, x))


OPS: dict[str, Translation] = {
    **dict.fromkeys(("Trunc",), _trunc),
    "Frac": _frac,
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
    "IsNan": lambda call: call.emit("IsNaN", call.tensor(0)),
    "IsInf": lambda call: call.emit("IsInf", call.tensor(0)),
    "IsFinite": _is_finite,
}
