"""What takes elements by index: gathers, slices, masks; and puts them there."""

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, wide_of
from weightd.weights.mindir.values import Tensor, Value

_LAST = np.iinfo(np.int64).max


def _gather(call: Call) -> Result:
    axis, batch_dims = call.integer(2, "axis", 0), call.integer(3, "batch_dims", 0)
    if batch_dims:
        raise call.refused(f"batch_dims is {batch_dims}; only 0 is translated")
    return call.emit("Gather", call.tensor(0), _indices(call, 1), axis=axis)


def _indices(call: Call, index: int) -> Tensor:
    tensor = call.tensor(index)
    return tensor if tensor.dtype in ("int32", "int64") else call.cast(tensor, "int64")


def _gather_elements(call: Call) -> Result:
    """GatherD: input, dim, index."""
    axis = call.integer(1, "dim")
    return call.emit("GatherElements", call.tensor(0), _indices(call, 2), axis=axis)


def _gather_nd(call: Call) -> Result:
    return call.emit("GatherND", call.tensor(0), call.cast(call.tensor(1), "int64"))


def _index_select(call: Call) -> Result:
    axis = call.integer(1, "dim")
    return call.emit("Gather", call.tensor(0), _indices(call, 2), axis=axis)


def _embedding(call: Call) -> Result:
    """Rows of a table, by number. Padding matters to training only."""
    if call.has(3):
        raise call.refused("max_norm is not translated: it changes the table while it is read")
    return call.emit("Gather", call.tensor(1), _indices(call, 0), axis=0)


def _embedding_lookup(call: Call) -> Result:
    """Rows of a table, by number less an offset; zeros where there is no such row."""
    table, dtype = call.tensor(0), call.out.dtype
    offset = call.number_of(call.integer(2, "offset", 0), "int64")
    row = call.made("Sub", [call.operand(1, "int64"), offset], "int64")
    zero = call.number_of(0, "int64")
    count = call.made("Gather", [call.made("Shape", [table], "int64"), zero], "int64")
    is_there = call.made(
        "And",
        [call.made("GreaterOrEqual", [row, zero], "bool"), call.made("Less", [row, count], "bool")],
        "bool",
    )
    safe = call.made("Where", [is_there, row, zero], "int64")
    rows = call.made("Gather", [table, safe], dtype, axis=0)
    for axis in range(call.rank(0) - 1):
        is_there = call.made("Unsqueeze", [is_there, np.array([-1 - axis])], "bool")
    return call.emit("Where", is_there, rows, call.number_of(0, dtype))


def _slice(call: Call) -> Result:
    """From begin on, so many; -1: to the end."""
    begin, size = call.args[1], call.args[2]
    if not (isinstance(begin, tuple) and isinstance(size, tuple)):
        raise call.refused("its begin and size are no tuples")
    ends = [_end(call, start, count) for start, count in zip(begin, size, strict=True)]
    axes = np.arange(len(begin))
    return call.emit(
        "Slice", call.tensor(0), call.joined(begin, "begin"), call.joined(ends, "size"), axes
    )


def _end(call: Call, start: Value, count: Value) -> Value:
    if isinstance(count, int) and count == -1:
        return _LAST
    if isinstance(start, int) and isinstance(count, int):
        return start + count
    return call.made("Add", [call.scalar(start, "begin"), call.scalar(count, "size")], "int64", ())


def _slice_ext(call: Call) -> Result:
    """input, dim, start, end, step"""
    names = ("dim", "start", "end", "step")
    axis, start, end, step = (call.joined([call.args[i + 1]], n) for i, n in enumerate(names))
    return call.emit("Slice", call.tensor(0), start, end, axis, step)


def _narrow(call: Call) -> Result:
    """input, dim, start, length"""
    start, length = call.args[2], call.args[3]
    end = _end(call, start, length)
    axis = np.array([call.integer(1, "dim")])
    return call.emit(
        "Slice", call.tensor(0), call.joined([start], "start"), call.joined([end], "length"), axis
    )


def _select_view(call: Call) -> Result:
    """One of an axis, which goes away: input, dim, index"""
    index = call.scalar(call.args[2], "index")
    return call.emit("Gather", call.tensor(0), index, axis=call.integer(1, "dim"))


class _Slices:
    """A StridedSlice in ONNX's words, axis by axis."""

    def __init__(self) -> None:
        self.axes: list[int] = []
        self.begins: list[Value] = []
        self.ends: list[Value] = []
        self.steps: list[Value] = []
        self.new: list[int] = []  # axes of the result
        self.dropped: list[int] = []  # axes of the result before new ones are put in

    def add(self, axis: int, begin: Value, end: Value, step: Value) -> None:
        self.axes.append(axis)
        self.begins.append(begin)
        self.ends.append(end)
        self.steps.append(step)


def _strided_slice(call: Call) -> Result:
    """What x[a:b:c, ..., None, i] becomes: bit i of a mask is about place i of the three tuples."""
    begin, end, step = (_place_values(call, index) for index in (1, 2, 3))
    masks = {
        name: call.integer(4 + number, f"{name}_mask", 0)
        for number, name in enumerate(("begin", "end", "ellipsis", "new_axis", "shrink_axis"))
    }
    has = {
        name: [bool(mask >> bit & 1) for bit in range(len(begin))] for name, mask in masks.items()
    }
    _check_masks(call, has)
    return _written(call, _slices(call, begin, end, step, has))


def _check_masks(call: Call, has: dict[str, list[bool]]) -> None:
    """MindSpore's kernel for the CPU heeds these two masks in its result's shape, and takes the
    elements as if they were not there. No slice in Python's brackets has them."""
    kinds = zip(has["ellipsis"], has["new_axis"], has["shrink_axis"], strict=True)
    if any(sum(kind) > 1 for kind in kinds):
        raise call.refused("two of its masks contradict each other over one place")
    if any(has["ellipsis"][:-1]):
        raise call.refused(
            "its ellipsis_mask is not translated; slice with x[..., a:b] in Python's brackets"
        )
    if any(has["new_axis"]) and not all(has["new_axis"]):
        raise call.refused(
            "its new_axis_mask is not translated; slice with x[:, None] in Python's brackets"
        )


def _place_values(call: Call, index: int) -> tuple[Value, ...]:
    value = call.args[index]
    if isinstance(value, np.ndarray):
        return tuple(value.reshape(-1).tolist())
    if not isinstance(value, tuple):
        raise call.refused(f"its argument {index} is computed as a tensor, not as a tuple")
    return value


def _slices(
    call: Call,
    begin: tuple[Value, ...],
    end: tuple[Value, ...],
    step: tuple[Value, ...],
    has: dict[str, list[bool]],
) -> _Slices:
    slices = _Slices()
    places = len(begin)
    taken = sum(
        not new for new, dots in zip(has["new_axis"], has["ellipsis"], strict=True) if not dots
    )
    axis = 0  # of the argument
    out = 0  # of the result
    for place in range(places):
        if has["ellipsis"][place]:
            skipped = call.rank(0) - taken
            axis, out = axis + skipped, out + skipped
        elif has["new_axis"][place]:
            slices.new.append(out)
            out += 1
        elif has["shrink_axis"][place]:
            first = 0 if has["begin"][place] else begin[place]
            slices.add(axis, first, _one_more(call, first), 1)
            slices.dropped.append(axis)
            axis += 1
        else:
            is_open = has["begin"][place] or has["end"][place]
            if is_open and not _is_forward(step[place]):
                raise call.refused(
                    "a slice runs backwards from an open end, which MindSpore's own kernels do not "
                    "agree on; reverse it with flip"
                )
            first = 0 if has["begin"][place] else begin[place]
            last = _LAST if has["end"][place] else end[place]
            if not _is_forward(step[place]):
                _check_within(call, axis, first, last)
            slices.add(axis, first, last, step[place])
            axis, out = axis + 1, out + 1
    return slices


def _is_forward(step: Value) -> bool:
    return isinstance(step, int) and step > 0


def _check_within(call: Call, axis: int, first: Value, last: Value) -> None:
    """MindSpore's kernel does not clip a slice that runs backwards: it reads what lies outside."""
    shape = call.tensor(0).shape
    size = shape[axis] if shape is not None and axis < len(shape) else -1
    bounds = [bound for bound in (first, last) if isinstance(bound, int)]
    if size >= 0 and not all(-size <= bound < max(size, 1) for bound in bounds):
        raise call.refused(
            f"a slice runs backwards over more than the {size} elements of axis {axis}, where "
            "MindSpore itself reads what lies outside; give it bounds within the axis"
        )


def _one_more(call: Call, begin: Value) -> Value:
    """The end of a slice of one; that of the last one, -1, is the end of the axis."""
    if isinstance(begin, int):
        return begin + 1 if begin != -1 else _LAST
    value = call.scalar(begin, "begin")
    after = call.made("Add", [value, call.number_of(1, "int64")], "int64", ())
    is_last = call.made("Equal", [value, call.number_of(-1, "int64")], "bool")
    return call.made("Where", [is_last, call.number_of(_LAST, "int64"), after], "int64", ())


def _written(call: Call, slices: _Slices) -> Result:
    x = call.tensor(0)
    if slices.axes:
        inputs = [call.joined(part, "its places") for part in (slices.begins, slices.ends)]
        steps = call.joined(slices.steps, "its strides")
        x = call.made("Slice", [x, *inputs, np.array(slices.axes), steps], x.dtype)
    if slices.dropped:
        x = call.made("Squeeze", [x, np.array(slices.dropped)], x.dtype)
    if slices.new:
        x = call.made("Unsqueeze", [x, np.array(slices.new)], x.dtype)
    return Tensor(x.name, x.dtype, call.out.shape) if slices.axes or slices.new else x


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


def _non_zero(call: Call) -> Result:
    found = call.made("NonZero", [call.operand(0, "bool")], "int64")
    return call.cast(call.made("Transpose", [found], "int64", perm=[1, 0]), call.out.dtype)


def _masked_select(call: Call) -> Result:
    """What is left has a length that is known only then."""
    x, mask = call.tensor(0), call.operand(1, "bool")
    if x.shape != mask.shape:
        raise call.refused("its mask has another shape than what it is laid on")
    return call.emit("Compress", x, call.reshaped(mask, [-1]))


OPS: dict[str, Translation] = {
    **dict.fromkeys(("Gather", "GatherV2"), _gather),
    **dict.fromkeys(("GatherD", "GatherElements"), _gather_elements),
    **dict.fromkeys(("GatherNd", "GatherNdExt"), _gather_nd),
    "IndexSelect": _index_select,
    "Embedding": _embedding,
    "EmbeddingLookup": _embedding_lookup,
    "Slice": _slice,
    **dict.fromkeys(("SliceExt", "SliceExtView"), _slice_ext),
    **dict.fromkeys(("Narrow", "NarrowView"), _narrow),
    "SelectExtView": _select_view,
    "StridedSlice": _strided_slice,
    "TensorScatterUpdate": _scatter_nd("none"),
    "TensorScatterAdd": _scatter_nd("add"),
    "TensorScatterMax": _scatter_nd("max"),
    "TensorScatterMin": _scatter_nd("min"),
    "TensorScatterMul": _scatter_nd("mul"),
    "ScatterNd": _scatter_into_zeros,
    "TensorScatterElements": _scatter_elements,
    "NonZero": _non_zero,
    "MaskedSelect": _masked_select,
}
