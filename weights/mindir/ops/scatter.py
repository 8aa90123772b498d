"""What puts elements by index, into a copy: nothing is changed in place."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, wide_of


def _scatter_nd(reduction: str) -> Translation:
    """x, indices, updates: into a copy of x."""

    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        wide = _scattered_in(dtype)
        indices = call.cast(call.tensor(1), "int64")
        x, updates = call.operand(0, wide), call.operand(2, wide)
        name = call.emit("ScatterND", x, indices, updates, reduction=reduction)
        return call.cast(call.named(name, wide), dtype)

    return translate


def _scattered_in(dtype: str) -> str:
    """The dtype in which onnxruntime adds to elements."""
    return "float32" if dtype == "float16" else wide_of(dtype)


def _scatter_into_zeros(call: Call) -> Result:
    """indices, updates, shape; where an index comes twice, the sum."""
    dtype = call.out.dtype
    wide = _scattered_in(dtype)
    zeros = call.made("Expand", [call.number_of(0, wide), call.vector(2)], wide)
    indices = call.cast(call.tensor(0), "int64")
    updates = call.operand(1, wide)
    name = call.emit("ScatterND", zeros, indices, updates, reduction="add")
    return call.cast(call.named(name, wide), dtype)


def _scatter_elements(call: Call) -> Result:
    """data, indices, updates, axis, reduce"""
    reduce = call.setting(4, "reduction", 0)
    reduction = {0: "none", "none": "none", 1: "add", "add": "add"}.get(reduce)
    if reduction is None:
        raise call.refused(f"its reduction is {reduce!r}")
    return call.emit(
        "ScatterElements",
        call.tensor(0),
        call.cast(call.tensor(1), "int64"),
        call.cast(call.tensor(2), call.tensor(0).dtype),
        axis=call.integer(3, "axis", 0),
        reduction=reduction,
    )


OPS: dict[str, Translation] = {
    "TensorScatterUpdate": _scatter_nd("none"),
    "TensorScatterAdd": _scatter_nd("add"),
    "TensorScatterMax": _scatter_nd("max"),
    "TensorScatterMin": _scatter_nd("min"),
    "TensorScatterMul": _scatter_nd("mul"),
    "ScatterNd": _scatter_into_zeros,
    "TensorScatterElements": _scatter_elements,
}
