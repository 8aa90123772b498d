"""Activations: one number in, one number out."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, unary


def _relu6(call: Call) -> Result:
    x = call.tensor(0)
    low, high = (call.number_of(value, x.dtype) for value in (0, 6))
    return call.emit("Clip", x, low, high)


OPS: dict[str, Translation] = {
    "ReLU": unary("Relu"),
    "ReLU6": _relu6,
}
