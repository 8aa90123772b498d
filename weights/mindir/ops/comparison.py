"""Comparisons and logic."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, narrowed, wide_of
from weightd.weights.mindir.values import Tensor

_WIDEST = ("float64", "float32", "float16", "int64", "int32", "uint64", "uint32", "bool")


def _compared(op: str, *, is_negated: bool = False) -> Translation:
    def translate(call: Call) -> Result:
        one, other = _alike(call)
        name = call.emit(op, one, other)
        return call.emit("Not", call.named(name, "bool")) if is_negated else name

    return translate


def _alike(call: Call) -> tuple[Tensor, Tensor]:
    """Both arguments in one dtype, which onnxruntime can compare. A number takes the tensor's; one
    that is not whole makes whole ones float32, as MindSpore does."""
    tensors = [call.tensor(i) for i in (0, 1) if not isinstance(call.args[i], bool | int | float)]
    numbers = [call.args[i] for i in (0, 1) if isinstance(call.args[i], bool | int | float)]
    if not tensors:
        raise call.refused("it compares two numbers")
    dtypes = {wide_of(tensor.dtype) if tensor.dtype != "bool" else "bool" for tensor in tensors}
    dtype = min(dtypes, key=lambda name: _WIDEST.index(name) if name in _WIDEST else 99)
    if any(isinstance(number, float) for number in numbers) and "float" not in dtype:
        dtype = "float32"
    elif numbers and dtype == "bool":
        dtype = "int32"
    return call.operand(0, dtype), call.operand(1, dtype)


def _logic(op: str) -> Translation:
    def translate(call: Call) -> Result:
        return call.emit(op, call.operand(0, "bool"), call.operand(1, "bool"))

    return translate


def _not(call: Call) -> Result:
    return call.emit("Not", call.operand(0, "bool"))


def _select(call: Call) -> Result:
    dtype = call.out.dtype
    wide = wide_of(dtype)
    condition = call.operand(0, "bool")
    picked = call.emit("Where", condition, call.operand(1, wide), call.operand(2, wide))
    return narrowed(call, picked, dtype)


def _masked_fill(call: Call) -> Result:
    dtype = call.out.dtype
    wide = wide_of(dtype)
    mask = call.operand(1, "bool")
    filled = call.emit("Where", mask, call.operand(2, wide), call.operand(0, wide))
    return narrowed(call, filled, dtype)


def _is_close(call: Call) -> Result:
    """|x - y| <= atol + rtol |y|, and equal infinities."""
    if call.flag(4, "equal_nan", False):
        raise call.refused("equal_nan is not translated")
    x, y = call.operand(0, "float64"), call.operand(1, "float64")
    bounds = [call.number_of(call.number(i, n), "float64") for i, n in ((2, "rtol"), (3, "atol"))]
    size = call.made("Mul", [bounds[0], call.made("Abs", [y], y.dtype)], y.dtype)
    bound = call.made("Add", [bounds[1], size], y.dtype)
    distance = call.made("Abs", [call.made("Sub", [x, y], y.dtype)], y.dtype)
    is_near = call.made("LessOrEqual", [distance, bound], "bool")
    is_finite = call.made("Not", [call.made("IsInf", [y], "bool")], "bool")
    near = call.made("And", [is_near, is_finite], "bool")
    return call.emit("Or", near, call.made("Equal", [x, y], "bool"))


OPS: dict[str, Translation] = {
    **dict.fromkeys(("Equal", "EqScalar", "EqualScalar"), _compared("Equal")),
    **dict.fromkeys(
        ("NotEqual", "NeScalar", "NotEqualScalar"), _compared("Equal", is_negated=True)
    ),
    **dict.fromkeys(("Greater", "GreaterScalar"), _compared("Greater")),
    **dict.fromkeys(("GreaterEqual", "GreaterEqualScalar"), _compared("GreaterOrEqual")),
    **dict.fromkeys(("Less", "LessScalar"), _compared("Less")),
    **dict.fromkeys(("LessEqual", "LessEqualScalar"), _compared("LessOrEqual")),
    "LogicalAnd": _logic("And"),
    "LogicalOr": _logic("Or"),
    "LogicalXor": _logic("Xor"),
    "LogicalNot": _not,
    **dict.fromkeys(("Select", "SelectV2", "Where"), _select),
    **dict.fromkeys(("MaskedFill", "MaskedFillScalar"), _masked_fill),
    "IsClose": _is_close,
}
