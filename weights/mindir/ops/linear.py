"""Matrix products, and what is added to them."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, unary


def _matmul(call: Call) -> Result:
    a, b = call.tensor(0), call.tensor(1)
    return call.emit(
        "Gemm",
        a,
        b,
        transA=int(call.flag(2, "transpose_a", False)),
        transB=int(call.flag(3, "transpose_b", False)),
    )


def _bias_add(call: Call) -> Result:
    x, bias = call.tensor(0), call.tensor(1)
    rank = call.rank(0)
    if rank > 2:
        bias = call.reshaped(bias, [-1, *[1] * (rank - 2)])
    return call.emit("Add", x, bias)


OPS: dict[str, Translation] = {
    "MatMul": _matmul,
    "BiasAdd": _bias_add,
    "Flatten": unary("Flatten", axis=1),
    "Add": lambda call: call.emit("Add", call.tensor(0), call.tensor(1)),
}
