"""Reductions, and what finds, sorts or accumulates along an axis."""

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, wide_of
from weightd.weights.mindir.values import Tensor


def reduced(call: Call, op: str, x: Tensor, axes: tuple[int, ...] | None, *, keep: bool) -> Tensor:
    """axes None: all of them."""
    if axes is None:
        return call.made(op, [x], x.dtype, keepdims=int(keep))
    return call.made(op, [x, np.array(axes, np.int64)], x.dtype, keepdims=int(keep))


def axes_of(call: Call, index: int, name: str) -> tuple[int, ...] | None:
    """The axes of a reduction; None for all. An empty tuple means all, too."""
    if call.is_none(index, name):
        return None
    return call.integers(index, name, ()) or None


def _reduction(op: str) -> Translation:
    """Of MindSpore's own names: axis, keep_dims."""

    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        x = call.operand(0, wide_of(dtype))
        keep = call.flag(2, "keep_dims", False)
        return call.cast(reduced(call, op, x, axes_of(call, 1, "axis"), keep=keep), dtype)

    return translate


def _extended(op: str) -> Translation:
    """Of PyTorch's names: dim, keepdim, dtype. Computed in the result's dtype."""

    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        x = call.operand(0, wide_of(dtype))
        keep = call.flag(2, "keepdim", False)
        return call.cast(reduced(call, op, x, axes_of(call, 1, "dim"), keep=keep), dtype)

    return translate


def _of_bools(op: str) -> Translation:
    """All or any: the least or greatest of 0 and 1."""

    def translate(call: Call) -> Result:
        x = call.cast(call.operand(0, "bool"), "int32")
        keep = call.flag(2, "keep_dims", False)
        return call.cast(reduced(call, op, x, axes_of(call, 1, "axis"), keep=keep), "bool")

    return translate


def _whole(op: str) -> Translation:
    """The least or greatest of all."""

    def translate(call: Call) -> Result:
        return reduced(call, op, call.tensor(0), None, keep=False)

    return translate


def _arg(op: str, axis_name: str) -> Translation:
    """The first of equal ones, in both."""

    def translate(call: Call) -> Result:
        x = call.tensor(0)
        if call.is_none(1, axis_name):
            flat = call.reshaped(x, [-1])
            return call.cast(_index(call, op, flat, 0, keep=False), call.out.dtype)
        keep = call.flag(2, "keepdim", False) if axis_name == "dim" else False
        axis = call.integer(1, axis_name, -1)
        return call.cast(_index(call, op, x, axis, keep=keep), call.out.dtype)

    return translate


def _index(call: Call, op: str, x: Tensor, axis: int, *, keep: bool) -> Tensor:
    if x.shape == ():
        return call.constant(np.array(0, np.int64))
    return call.made(op, [x], "int64", axis=axis, keepdims=int(keep))


def _with_value(arg: str, op: str, axis_name: str, *, index_first: bool) -> Translation:
    """The index and the value; or the value and the index."""

    def translate(call: Call) -> Result:
        x = call.tensor(0)
        axis = call.integer(1, axis_name, 0)
        keep = call.flag(2, "keep_dims" if axis_name == "axis" else "keepdim", False)
        types = call.outs()
        index = _index(call, arg, x, axis, keep=keep)
        declared = types[0 if index_first else 1]
        index = call.cast(index, getattr(declared, "dtype", "int32"))
        value = x if x.shape == () else reduced(call, op, x, (axis,), keep=keep)
        return [index.name, value.name] if index_first else [value.name, index.name]

    return translate


def _top_k(call: Call) -> Result:
    """Along the last axis, the largest first."""
    return _largest(call, -1, largest=True)


def _top_k_ext(call: Call) -> Result:
    return _largest(call, call.integer(2, "dim", -1), largest=call.flag(3, "largest", True))


def _largest(call: Call, axis: int, *, largest: bool) -> Result:
    x = call.tensor(0)
    count = call.reshaped(call.scalar(call.args[1], "k"), [1])
    names = call.emit_all("TopK", [x, count], 2, axis=axis, largest=int(largest), sorted=1)
    return _with_index_dtype(call, names)


def _with_index_dtype(call: Call, names: list[str]) -> list[str]:
    """Of a value and its index: the index in the dtype that is declared."""
    declared = getattr(call.outs()[1], "dtype", "int64")
    return [names[0], call.cast(Tensor(names[1], "int64", None), declared).name]


def _sorted(call: Call) -> Result:
    """All of an axis, by TopK: equal ones stay in their order."""
    is_ext = call.op == "SortExt"
    axis = call.integer(1, "dim" if is_ext else "axis", -1)
    descending = call.flag(2, "descending", False)
    x = call.tensor(0)
    size = call.made("Gather", [call.made("Shape", [x], "int64"), np.array([axis])], "int64")
    names = call.emit_all("TopK", [x, size], 2, axis=axis, largest=int(descending), sorted=1)
    return _with_index_dtype(call, names)


def _cumulated(call: Call) -> Result:
    dtype = call.out.dtype
    x = call.operand(0, wide_of(dtype))
    axis = call.operand(1, "int64")
    exclusive, reverse = (
        (False, False)
        if call.op == "CumsumExt"
        else (call.flag(2, "exclusive", False), call.flag(3, "reverse", False))
    )
    made = call.made("CumSum", [x, axis], x.dtype, exclusive=int(exclusive), reverse=int(reverse))
    return call.cast(made, dtype)


def _moment(*, is_root: bool) -> Translation:
    """Variance, or its root; correction: what is taken from the count."""

    def translate(call: Call) -> Result:
        x = call.tensor(0)
        axes = axes_of(call, 1, "dim")
        correction = call.integer(2, "correction", 1)
        return _variance(call, x, axes, correction, is_root, keep=call.flag(3, "keepdim", False))

    return translate


def _variance(
    call: Call,
    x: Tensor,
    axes: tuple[int, ...] | None,
    correction: int,
    is_root: bool,
    *,
    keep: bool,
) -> Tensor:
    shape = call.static_shape(0)
    count = 1
    for axis in range(len(shape)) if axes is None else axes:
        count *= shape[axis]
    mean = reduced(call, "ReduceMean", x, axes, keep=True)
    distance = call.made("Sub", [x, mean], x.dtype)
    total = reduced(call, "ReduceSumSquare", distance, axes, keep=keep)
    variance = call.made("Div", [total, call.number_of(count - correction, x.dtype)], x.dtype)
    return call.made("Sqrt", [variance], x.dtype) if is_root else variance


def _reduce_std(call: Call) -> Result:
    """The deviation and the mean."""
    x = call.tensor(0)
    axes = axes_of(call, 1, "axis")
    keep = call.flag(3, "keep_dims", False)
    deviation = _variance(call, x, axes, int(call.flag(2, "unbiased", True)), True, keep=keep)
    return [deviation.name, reduced(call, "ReduceMean", x, axes, keep=keep).name]


def _var_mean(call: Call) -> Result:
    x = call.tensor(0)
    axes, correction = axes_of(call, 1, "dim"), call.integer(2, "correction", 1)
    keep = call.flag(3, "keepdim", False)
    moment = _variance(call, x, axes, correction, call.op == "StdMean", keep=keep)
    return [moment.name, reduced(call, "ReduceMean", x, axes, keep=keep).name]


def _log_sum_exp(call: Call) -> Result:
    """Less the largest first, so that nothing overflows: onnxruntime does."""
    keep = call.flag(2, "keepdim", False)
    return reduced(call, "ReduceLogSumExp", call.tensor(0), axes_of(call, 1, "dim"), keep=keep)


OPS: dict[str, Translation] = {
    "ReduceSum": _reduction("ReduceSum"),
    "ReduceMean": _reduction("ReduceMean"),
    "ReduceMax": _reduction("ReduceMax"),
    "ReduceMin": _reduction("ReduceMin"),
    "ReduceProd": _reduction("ReduceProd"),
    "ReduceAll": _of_bools("ReduceMin"),
    "ReduceAny": _of_bools("ReduceMax"),
    "SumExt": _extended("ReduceSum"),
    "MeanExt": _extended("ReduceMean"),
    "ProdExt": _extended("ReduceProd"),
    "Max": _whole("ReduceMax"),
    "Min": _whole("ReduceMin"),
    "Argmax": _arg("ArgMax", "axis"),
    "Argmin": _arg("ArgMin", "axis"),
    "ArgMaxExt": _arg("ArgMax", "dim"),
    "ArgMinExt": _arg("ArgMin", "dim"),
    "ArgMaxWithValue": _with_value("ArgMax", "ReduceMax", "axis", index_first=True),
    "ArgMinWithValue": _with_value("ArgMin", "ReduceMin", "axis", index_first=True),
    "MaxDim": _with_value("ArgMax", "ReduceMax", "dim", index_first=False),
    "MinDim": _with_value("ArgMin", "ReduceMin", "dim", index_first=False),
    "TopK": _top_k,
    "TopkExt": _top_k_ext,
    **dict.fromkeys(("Sort", "SortExt"), _sorted),
    **dict.fromkeys(("CumSum", "CumsumExt"), _cumulated),
    "Var": _moment(is_root=False),
    "Std": _moment(is_root=True),
    "ReduceStd": _reduce_std,
    **dict.fromkeys(("VarMean", "StdMean"), _var_mean),
    "LogSumExp": _log_sum_exp,
}
