"""Matrix products, and what is added to them."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.conv import check_format
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.values import Tensor

# What onnxruntime has matrix products of; the others go by a wider one, exactly.
_WIDE = {
    "int8": "int32",
    "int16": "int32",
    "uint8": "int32",
    "uint16": "int32",
}
_GEMM = frozenset({"float16", "float32", "float64"})


def _matmul(call: Call) -> Result:
    """Of two matrices; an argument says of each whether it is transposed first."""
    a, b = call.tensor(0), call.tensor(1)
    flags = call.flag(2, "transpose_a", False), call.flag(3, "transpose_b", False)
    if a.dtype in _GEMM and len(a.shape or ()) == 2 and len(b.shape or ()) == 2:
        return call.emit("Gemm", a, b, transA=int(flags[0]), transB=int(flags[1]))
    pairs = zip((a, b), flags, strict=True)
    return product(call, *(swapped(call, x) if is_turned else x for x, is_turned in pairs))


def swapped(call: Call, x: Tensor) -> Tensor:
    """With its last two axes exchanged."""
    if x.shape is None:
        raise call.refused("the rank of what it transposes is not declared")
    rank = len(x.shape)
    axes = [*range(rank - 2), rank - 1, rank - 2]
    shape = tuple(x.shape[axis] for axis in axes)
    return call.made("Transpose", [x], x.dtype, shape, perm=axes)


def product(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """As numpy's matmul."""
    wide = _WIDE.get(a.dtype, a.dtype)
    made = call.made("MatMul", [call.cast(a, wide), call.cast(b, wide)], wide)
    return call.cast(made, call.out.dtype)


def _numpy_matmul(call: Call) -> Result:
    return product(call, call.tensor(0), call.tensor(1)).name


def _dense(call: Call) -> Result:
    """x times the transposed weight, and the bias."""
    x, weight = call.tensor(0), call.tensor(1)
    if len(weight.shape or ()) == 2:
        weight = swapped(call, weight)
    made = product(call, x, weight)
    return call.emit("Add", made, call.tensor(2)) if call.has(2) else made.name


def _bias_add(call: Call) -> Result:
    """One number for each channel, which is axis 1."""
    check_format(call, 2, "data_format")
    x, bias = call.tensor(0), call.tensor(1)
    rank = call.rank(0)
    if rank > 2:
        bias = call.reshaped(bias, [-1, *[1] * (rank - 2)])
    return call.emit("Add", x, bias)


def _scaled_product(call: Call) -> Result:
    """beta * x + alpha * (a @ b)"""
    dtype = call.out.dtype
    made = product(call, call.tensor(1), call.tensor(2))
    terms = []
    for term, index, name in ((call.tensor(0), 3, "beta"), (made, 4, "alpha")):
        scale = call.number(index, name, 1)
        scaled = (
            term if scale == 1 else call.made("Mul", [term, call.number_of(scale, dtype)], dtype)
        )
        terms.append(scaled)
    return call.emit("Add", *terms)


def _outer(call: Call) -> Result:
    column = call.reshaped(call.tensor(0), [-1, 1])
    return call.emit("Mul", column, call.tensor(1))


def _einsum(call: Call) -> Result:
    tensors = call.tensors(0) if isinstance(call.args[0], tuple) else call.tensors(1)
    return call.emit("Einsum", *tensors, equation=call.text(None, "equation"))


OPS: dict[str, Translation] = {
    "MatMul": _matmul,
    "BatchMatMul": _matmul,
    **dict.fromkeys(("MatMulExt", "BatchMatMulExt", "Mm", "Mv", "Dot"), _numpy_matmul),
    **dict.fromkeys(("Dense", "LinearExt"), _dense),
    "BiasAdd": _bias_add,
    **dict.fromkeys(("Addmm", "Baddbmm", "Addmv"), _scaled_product),
    "Outer": _outer,
    "Einsum": _einsum,
}
