"""What takes elements by index: gathers, slices, masks."""

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.values import Tensor, Value

_LAST = np.iinfo(np.int64).max


def _gather(call: Call) -> Result:
    axis, batch_dims = call.integer(2, "axis", 0), call.integer(3, "batch_dims", 0)
    if batch_dims:
        return _gather_each(call, axis, batch_dims)
    return call.emit("Gather", call.tensor(0), _indices(call, 1), axis=axis)


def _gather_each(call: Call, axis: int, batch_dims: int) -> Result:
    """Each of a batch by indices of its own. ONNX takes them from the axis behind the batch's,
    and puts what they give there: the axis goes there and back."""
    x, indices, rank = call.tensor(0), _indices(call, 1), call.rank(0)
    axis = axis % rank
    batch_dims = batch_dims if batch_dims >= 0 else batch_dims + call.rank(1)
    between = list(range(batch_dims, axis))
    order = [*range(batch_dims), axis, *between, *range(axis + 1, rank)]
    moved = call.made("Transpose", [x], x.dtype, perm=order)
    points = call.made("Unsqueeze", [indices, np.array([-1])], indices.dtype)
    found = call.made(
        "GatherND", [moved, call.cast(points, "int64")], x.dtype, batch_dims=batch_dims
    )
    taken = call.rank(1) - batch_dims  # axes that the indices put in the place of one
    behind = [batch_dims + taken + number for number in range(len(between))]
    put = range(batch_dims, batch_dims + taken)
    last = range(batch_dims + taken + len(between), rank - 1 + taken)
    return call.emit("Transpose", found, perm=[*range(batch_dims), *behind, *put, *last])


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
            first = None if has["begin"][place] else begin[place]
            last = None if has["end"][place] else end[place]
            if not _is_forward(step[place]):
                _check_within(call, axis, first, last)
                _check_alone(call, step, has, place)
            first, last = _from_open_ends(first, last, is_forward=_is_forward(step[place]))
            slices.add(axis, first, last, step[place])
            axis, out = axis + 1, out + 1
    return slices


def _is_forward(step: Value) -> bool:
    return isinstance(step, int) and step > 0


def _from_open_ends(first: Value, last: Value, *, is_forward: bool) -> tuple[Value, Value]:
    """None: an open end, which is the first or last element, as the direction has it."""
    if is_forward:
        return (0 if first is None else first), (_LAST if last is None else last)
    return (_LAST if first is None else first), (-_LAST if last is None else last)


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


def _check_alone(
    call: Call, step: tuple[Value, ...], has: dict[str, list[bool]], place: int
) -> None:
    """MindSpore's kernel mistakes some slices that run backwards from or to an open end, when they
    are not the only ones."""
    is_open = has["begin"][place] or has["end"][place]
    are_whole = (
        has["begin"][other] and has["end"][other] and step[other] == 1
        for other in range(len(step))
        if other != place and not has["ellipsis"][other]
    )
    if is_open and not isinstance(step[place], int):
        raise call.refused("the stride of a slice with an open end is computed")
    if is_open and not all(are_whole):
        raise call.refused(
            "one slice runs backwards with an open end and another cuts too, which MindSpore's own "
            "kernel mistakes; slice one after the other"
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


def _non_zero(call: Call) -> Result:
    found = call.made("NonZero", [call.operand(0, "bool")], "int64")
    return call.cast(call.made("Transpose", [found], "int64", perm=[1, 0]), call.out.dtype)


def _masked_select(call: Call) -> Result:
    """What is left has a length that is known only then. Each is widened to the other's shape."""
    x, mask = call.tensor(0), call.operand(1, "bool")
    if x.shape != mask.shape or x.shape is None or -1 in x.shape:
        shapes = [call.made("Shape", [tensor], "int64") for tensor in (mask, x)]
        x = call.made("Expand", [x, shapes[0]], x.dtype)
        mask = call.made("Expand", [mask, shapes[1]], "bool")
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
    "NonZero": _non_zero,
    "MaskedSelect": _masked_select,
}
