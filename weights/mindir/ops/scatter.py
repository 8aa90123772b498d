"""What puts elements by index, into a copy: nothing is changed in place."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, wide_of
from weightd.weights.mindir.values import Tensor


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


def _scatter_less(call: Call) -> Result:
    """x, indices, updates: what is taken away is added with the other sign."""
    dtype = call.out.dtype
    wide = _scattered_in(dtype)
    away = call.made("Neg", [call.operand(2, wide)], wide)
    indices = call.cast(call.tensor(1), "int64")
    name = call.emit("ScatterND", call.operand(0, wide), indices, away, reduction="add")
    return call.cast(call.named(name, wide), dtype)


_REDUCTIONS = {0: "none", "none": "none", 1: "add", "add": "add"}


def _scatter_elements(call: Call) -> Result:
    """data, indices, updates, axis, reduce"""
    axis, reduction = call.integer(3, "axis", 0), _reduction(call, "reduction")
    return _into(call, axis, call.tensor(1), call.tensor(2), reduction)


def _reduction(call: Call, name: str) -> str:
    found = call.setting(4, name, 0)
    reduction = _REDUCTIONS.get(found) if isinstance(found, int | str) else None
    if reduction is None:
        raise call.refused(f"its {name} is {found!r}")
    return reduction


def _scatter(call: Call) -> Result:
    """input, dim, index, src, reduce; src may be one number for all."""
    x, index = call.tensor(0), call.tensor(2)
    source = call.operand(3, x.dtype)
    if call.op == "ScatterValue":
        shape = call.made("Shape", [index], "int64")
        source = call.made("Expand", [call.reshaped(source, []), shape], x.dtype)
    return _into(call, call.integer(1, "dim"), index, source, _reduction(call, "reduce"))


def _scatter_add(call: Call) -> Result:
    """input, dim, index, src"""
    return _into(call, call.integer(1, "dim"), call.tensor(2), call.tensor(3), "add")


def _into(call: Call, axis: int, index: Tensor, updates: Tensor, reduction: str) -> Result:
    """The first argument, with updates where the indices along an axis say."""
    dtype = call.tensor(0).dtype
    wide = dtype if reduction == "none" else _scattered_in(dtype)
    made = call.made(
        "ScatterElements",
        [call.operand(0, wide), call.cast(index, "int64"), call.cast(updates, wide)],
        wide,
        axis=axis,
        reduction=reduction,
    )
    return call.cast(made, dtype)


def _index_add(call: Call) -> Result:
    """input, dim, index, source, alpha: whole slices are added, each where its index says."""
    source, rank = call.tensor(3), call.rank(0)
    axis = call.integer(1, "dim") % rank
    if call.number(4, "alpha", 1) != 1:
        raise call.refused("its alpha is not 1; multiply its source instead")
    line = [-1 if place == axis else 1 for place in range(rank)]
    shape = call.made("Shape", [source], "int64")
    index = call.made("Expand", [call.reshaped(call.tensor(2), line), shape], call.tensor(2).dtype)
    return _into(call, axis, index, source, "add")


def _index_fill(call: Call) -> Result:
    """x, dim, index, value: whole slices of one number, where an index along the axis says."""
    x, rank = call.tensor(0), call.rank(0)
    axis = call.integer(1, "dim") % rank
    size = call.made("Shape", [x], "int64", (1,), start=axis, end=axis + 1)
    index = call.reshaped(call.cast(call.tensor(2), "int64"), [-1])
    ones = call.made(
        "Expand", [call.number_of(1, "int64"), call.made("Shape", [index], "int64")], "int64"
    )
    none = call.made("Expand", [call.number_of(0, "int64"), size], "int64")
    marked = call.made("ScatterElements", [none, index, ones], "int64", axis=0)
    line = [-1 if place == axis else 1 for place in range(rank)]
    mask = call.reshaped(call.cast(marked, "bool"), line)
    return call.emit("Where", mask, call.reshaped(call.operand(3, x.dtype), []), x)


OPS: dict[str, Translation] = {
    "TensorScatterUpdate": _scatter_nd("none"),
    "TensorScatterAdd": _scatter_nd("add"),
    "TensorScatterMax": _scatter_nd("max"),
    "TensorScatterMin": _scatter_nd("min"),
    "TensorScatterMul": _scatter_nd("mul"),
    "ScatterNd": _scatter_into_zeros,
    "TensorScatterSub": _scatter_less,
    "TensorScatterElements": _scatter_elements,
    **dict.fromkeys(("Scatter", "ScatterValue"), _scatter),
    "ScatterAddExt": _scatter_add,
    "IndexAddExt": _index_add,
    **dict.fromkeys(("IndexFill", "IndexFillScalar", "IndexFillTensor"), _index_fill),
}
