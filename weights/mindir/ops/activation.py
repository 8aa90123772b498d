"""Activations: one number in, one number out; and those that look along an axis."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, narrowed, unary, wide_of
from weightd.weights.mindir.values import Tensor


def _relu(call: Call) -> Result:
    dtype = call.out.dtype
    return narrowed(call, call.emit("Relu", call.operand(0, wide_of(dtype))), dtype)


def clipped(call: Call, x: Tensor, low: float, high: float) -> Tensor:
    bounds = [call.number_of(bound, x.dtype) for bound in (low, high)]
    return call.made("Clip", [x, *bounds], x.dtype, x.shape)


def _relu6(call: Call) -> Result:
    return clipped(call, call.tensor(0), 0, 6)


def _gelu(call: Call) -> Result:
    """The form with tanh."""
    return call.emit("Gelu", call.tensor(0), approximate="tanh")


def _gelu_ext(call: Call) -> Result:
    form = call.setting(1, "approximate", "none")
    return call.emit("Gelu", call.tensor(0), approximate="tanh" if form in ("tanh", 1) else "none")


def _fast_gelu(call: Call) -> Result:
    """x / (1 + exp(-1.702 |x|)) * exp(0.851 (x - |x|)), which is x * sigmoid(1.702 x)."""
    return _gated(call, call.tensor(0), 1.702)


def _gated(call: Call, x: Tensor, scale: float = 1) -> Result:
    inner = x if scale == 1 else call.made("Mul", [x, call.number_of(scale, x.dtype)], x.dtype)
    return call.emit("Mul", x, call.made("Sigmoid", [inner], x.dtype))


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    """relu6(x + 3) / 6"""
    return call.made("HardSigmoid", [x], x.dtype, alpha=1 / 6, beta=0.5)


def _hswish(call: Call) -> Result:
    x = call.tensor(0)
    return call.emit("Mul", x, _hard_sigmoid(call, x))


def _softmax(op: str) -> Translation:
    def translate(call: Call) -> Result:
        x = call.tensor(0)
        axes = (-1,) if call.is_none(1, "axis") else call.integers(1, "axis", (-1,))
        if len(axes) != 1:
            raise call.refused(f"it goes over {len(axes)} axes at once; only one is translated")
        (axis,) = axes
        rank = call.rank(0)
        if rank == 0:
            x, axis = call.reshaped(x, [1]), 0
            return call.reshaped(call.made(op, [x], x.dtype, axis=axis), [])
        return call.emit(op, x, axis=axis)

    return translate


def _with_alpha(op: str, default: float, name: str = "alpha") -> Translation:
    def translate(call: Call) -> Result:
        return call.emit(op, call.tensor(0), alpha=call.number(1, name, default))

    return translate


def _elu(call: Call) -> Result:
    return call.emit("Elu", call.tensor(0), alpha=call.number(1, "alpha", 1.0))


def _softplus(call: Call) -> Result:
    """log(1 + exp(beta x)) / beta, and x itself above the threshold, where it is that anyway."""
    x = call.tensor(0)
    beta, threshold = call.number(1, "beta", 1), call.number(2, "threshold", 20)
    scaled = x if beta == 1 else call.made("Mul", [x, call.number_of(beta, x.dtype)], x.dtype)
    soft = call.made("Softplus", [scaled], x.dtype)
    if beta != 1:
        soft = call.made("Div", [soft, call.number_of(beta, x.dtype)], x.dtype)
    is_large = call.made("Greater", [scaled, call.number_of(threshold, x.dtype)], "bool")
    return call.emit("Where", is_large, x, soft)


def _plain_softplus(call: Call) -> Result:
    return call.emit("Softplus", call.tensor(0))


def _log_sigmoid(call: Call) -> Result:
    """-softplus(-x): log of the sigmoid, which does not run into log(0)."""
    x = call.tensor(0)
    soft = call.made("Softplus", [call.made("Neg", [x], x.dtype)], x.dtype)
    name = call.emit("Neg", soft)
    return [name, name] if isinstance(call.type, tuple) else name


def _mish(call: Call) -> Result:
    x = call.tensor(0)
    inner = call.made("Tanh", [call.made("Softplus", [x], x.dtype)], x.dtype)
    return call.emit("Mul", x, inner)


def _selu(call: Call) -> Result:
    return call.emit("Selu", call.tensor(0))


def _prelu(call: Call) -> Result:
    """One slope for all, or one for each channel, which is axis 1."""
    x, slope = call.tensor(0), call.tensor(1)
    rank = call.rank(0)
    if rank > 2 and len(slope.shape or ()) == 1:
        slope = call.reshaped(slope, [-1, *[1] * (rank - 2)])
    return call.emit("PRelu", x, slope)


def _glu(call: Call) -> Result:
    x = call.tensor(0)
    names = call.emit_all("Split", [x], 2, axis=call.integer(1, "axis", -1), num_outputs=2)
    value, gate = (Tensor(name, x.dtype, None) for name in names)
    return call.emit("Mul", value, call.made("Sigmoid", [gate], x.dtype))


def _kept_outside(call: Call, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The argument, and where it lies outside [low, high]."""
    x = call.tensor(0)
    below = call.made("Less", [x, call.number_of(low, x.dtype)], "bool")
    above = call.made("Greater", [x, call.number_of(high, x.dtype)], "bool")
    return x, call.made("Or", [below, above], "bool")


def _hard_shrink(call: Call) -> Result:
    bound = call.number(1, "lambd", 0.5)
    x, is_kept = _kept_outside(call, -bound, bound)
    return call.emit("Where", is_kept, x, call.number_of(0, x.dtype))


def _soft_shrink(call: Call) -> Result:
    x, bound = call.tensor(0), call.number(1, "lambd", 0.5)
    return call.emit("Shrink", x, bias=bound, lambd=bound)


def _hardtanh(call: Call) -> Result:
    return clipped(call, call.tensor(0), call.number(1, "min_val"), call.number(2, "max_val"))


def _threshold(call: Call) -> Result:
    x = call.tensor(0)
    is_kept = call.made("Greater", [x, call.operand(1, x.dtype)], "bool")
    return call.emit("Where", is_kept, x, call.operand(2, x.dtype))


def _dropout(call: Call) -> Result:
    raise call.refused(
        "it drops numbers at random, which is training; call network.set_train(False) before the "
        "export"
    )


OPS: dict[str, Translation] = {
    "ReLU": _relu,
    "ReLU6": _relu6,
    "Sigmoid": unary("Sigmoid"),
    "Tanh": unary("Tanh"),
    **dict.fromkeys(("GeLU", "Gelu"), _gelu),
    "GeluExt": _gelu_ext,
    "FastGeLU": _fast_gelu,
    **dict.fromkeys(("SiLU", "Swish"), lambda call: _gated(call, call.tensor(0))),
    "HSwish": _hswish,
    "HSigmoid": lambda call: _hard_sigmoid(call, call.tensor(0)),
    "Softmax": _softmax("Softmax"),
    **dict.fromkeys(("LogSoftmax", "LogSoftmaxExt"), _softmax("LogSoftmax")),
    **dict.fromkeys(
        ("LeakyReLU", "LeakyReLUExt"), _with_alpha("LeakyRelu", 0.01, "negative_slope")
    ),
    **dict.fromkeys(("Elu", "EluExt"), _elu),
    **dict.fromkeys(("SeLU", "SeLUExt"), _selu),
    "CeLU": _with_alpha("Celu", 1.0),
    "Softplus": _plain_softplus,
    "SoftplusExt": _softplus,
    "Softsign": unary("Softsign"),
    **dict.fromkeys(("Mish", "MishExt"), _mish),
    "LogSigmoid": _log_sigmoid,
    "PReLU": _prelu,
    "GLU": _glu,
    "HShrink": _hard_shrink,
    "SoftShrink": _soft_shrink,
    "Hardtanh": _hardtanh,
    "Threshold": _threshold,
    **dict.fromkeys(
        ("Dropout", "DropoutExt", "FuncDropoutExt", "Dropout2D", "Dropout3D"), _dropout
    ),
}
