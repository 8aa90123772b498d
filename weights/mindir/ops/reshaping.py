"""What moves elements and changes none: reshapes, transposes, joins, splits."""

import math

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.values import Tensor


def _reshape(call: Call) -> Result:
    return call.emit("Reshape", call.tensor(0), call.vector(1), allowzero=1)


def _transpose(call: Call) -> Result:
    rank = call.rank(0)
    axes = [axis % rank for axis in call.integers(1, "dims")] if rank else []
    return call.emit("Transpose", call.tensor(0), perm=axes)


def _swap_axes(call: Call) -> Result:
    """Two axes exchanged."""
    axes = list(range(call.rank(0)))
    one, other = call.integer(1, "dim0"), call.integer(2, "dim1")
    axes[one], axes[other] = axes[other], axes[one]
    return call.emit("Transpose", call.tensor(0), perm=axes)


def _flatten(call: Call) -> Result:
    """All axes but the first become one. A single axis stays with one of size 1."""
    return call.emit("Flatten", call.tensor(0), axis=1)


def _flatten_range(call: Call) -> Result:
    """The axes from start to end become one."""
    x = call.tensor(0)
    rank = call.rank(0)
    start, end = call.integer(1, "start_dim", 0), call.integer(2, "end_dim", -1)
    if rank == 0:
        return call.reshaped(x, [1])
    start, end = start % rank, end % rank
    sizes = call.made("Shape", [x], "int64")
    before = call.made("Slice", [sizes, np.array([0]), np.array([start])], "int64")
    after = call.made("Slice", [sizes, np.array([end + 1]), np.array([rank])], "int64")
    target = call.made("Concat", [before, call.constant(np.array([-1])), after], "int64", axis=0)
    return call.emit("Reshape", x, target)


def _squeeze(call: Call) -> Result:
    """Without the axes of size 1; without these, when some are named."""
    axes = call.integers(1, "axis", ())
    if not axes:
        axes = tuple(range(len(call.static_shape(0))))
    shape = call.tensor(0).shape
    if shape is not None:  # an axis that is known to be larger stays
        axes = tuple(axis for axis in axes if shape[axis] in (1, -1))
    if not axes:
        return call.tensor(0)
    return call.emit("Squeeze", call.tensor(0), np.array(axes, np.int64))


def _expand_dims(call: Call) -> Result:
    return call.emit("Unsqueeze", call.tensor(0), np.array(call.integers(1, "axis"), np.int64))


def _tile(call: Call) -> Result:
    """Missing axes are put in front, whichever of the two has fewer."""
    x, counts = call.tensor(0), call.vector(1)
    rank, length = call.rank(0), (counts.shape or (-1,))[0]
    if length < 0:
        raise call.refused("how many axes it repeats is computed while the model runs")
    if length > rank:
        x = _with_axes_in_front(call, x, length - rank)
    elif length < rank:
        ones = call.constant(np.ones(rank - length, np.int64))
        counts = call.made("Concat", [ones, counts], "int64", (rank,), axis=0)
    return call.emit("Tile", x, counts)


def _with_axes_in_front(call: Call, x: Tensor, count: int) -> Tensor:
    return call.made("Unsqueeze", [x, np.arange(count)], x.dtype)


def _broadcast_to(call: Call) -> Result:
    """-1 keeps a size, as 1 does in ONNX."""
    target = call.args[1] if len(call.args) > 1 else call.setting(None, "shape")
    sizes = target if isinstance(target, tuple) else None
    if sizes is not None:
        known = tuple(1 if size == -1 else size for size in sizes)
        return call.emit("Expand", call.tensor(0), call.joined(known, "its shape"))
    wanted = call.vector(1)
    is_kept = call.made("Less", [wanted, call.number_of(0, "int64")], "bool")
    one = call.number_of(1, "int64")
    return call.emit("Expand", call.tensor(0), call.made("Where", [is_kept, one, wanted], "int64"))


def _expand_as(call: Call) -> Result:
    return call.emit("Expand", call.tensor(0), call.made("Shape", [call.tensor(1)], "int64"))


def _concat(call: Call) -> Result:
    dtype = call.out.dtype
    parts = [call.cast(part, dtype) for part in call.tensors(0)]
    return call.emit("Concat", *parts, axis=call.integer(1, "axis", 0))


def _stack(call: Call) -> Result:
    name = "dim" if call.op == "StackExt" else "axis"
    axis = call.integer(1, name, 0)
    dtype = call.out.dtype
    parts = [call.cast(part, dtype) for part in call.tensors(0)]
    lifted = [call.made("Unsqueeze", [part, np.array([axis])], dtype) for part in parts]
    return call.emit("Concat", *lifted, axis=axis)


def _unstack(call: Call) -> Result:
    name = "dim" if call.op == "UnstackExtView" else "axis"
    axis, count = call.integer(1, name, 0), len(call.outs())
    parts = split(call, [1] * count, axis)
    squeezed = [call.made("Squeeze", [part, np.array([axis])], part.dtype) for part in parts]
    return [part.name for part in squeezed]


def split(call: Call, sizes: list[int], axis: int) -> list[Tensor]:
    """The first argument in pieces of these sizes."""
    x = call.tensor(0)
    names = call.emit_all("Split", [x, np.array(sizes, np.int64)], len(sizes), axis=axis)
    return [Tensor(name, x.dtype, None) for name in names]


def _split(call: Call) -> Result:
    """Into so many equal pieces."""
    axis = call.integer(1, "axis", 0)
    count = call.integer(2, "output_num", len(call.outs()))
    return call.emit_all("Split", [call.tensor(0)], count, axis=axis, num_outputs=count)


def _split_to_declared(call: Call) -> Result:
    """Into pieces whose sizes the file declares: equal ones, the last perhaps smaller."""
    axis = call.integer(2, "dim", 0)
    return _pieces(call, axis)


def _pieces(call: Call, axis: int) -> Result:
    sizes = []
    for declared in call.outs():
        shape = getattr(declared, "shape", None)
        if shape is None or shape[axis] < 0:
            raise call.refused("the sizes of its pieces are open")
        sizes.append(shape[axis])
    return [part.name for part in split(call, sizes, axis)]


def _reversed(call: Call) -> Result:
    axes = call.integers(1, "axis")
    count = len(axes)
    return call.emit(
        "Slice",
        call.tensor(0),
        np.full(count, -1),
        np.full(count, np.iinfo(np.int64).min),
        np.array(axes, np.int64),
        np.full(count, -1),
    )


def _roll(call: Call) -> Result:
    """Around the ends of these axes; around those of all elements in a row, when none is named."""
    shifts, x, shape = call.integers(1, "shifts"), call.tensor(0), call.static_shape(0)
    if call.is_none(2, "dims"):
        row = _rolled(call, call.reshaped(x, [-1]), shifts[0], 0, math.prod(shape))
        return call.reshaped(row, shape)
    for shift, axis in zip(shifts, call.integers(2, "dims"), strict=True):
        x = _rolled(call, x, shift, axis, shape[axis])
    return x


def _rolled(call: Call, x: Tensor, shift: int, axis: int, size: int) -> Tensor:
    at = -shift % size if size else 0
    pieces = [
        call.made("Slice", [x, np.array([a]), np.array([b]), np.array([axis])], x.dtype)
        for a, b in ((at, size), (0, at))
    ]
    return call.made("Concat", pieces, x.dtype, axis=axis)


def _transposed(call: Call) -> Result:
    """A matrix turned; a vector stays."""
    return call.emit("Transpose", call.tensor(0), perm=list(range(call.rank(0)))[::-1])


def _triangle(*, upper: bool) -> Translation:
    def translate(call: Call) -> Result:
        dtype = call.out.dtype
        wide = "int64" if dtype in ("int8", "int16", "uint8", "uint16", "int32") else dtype
        wide = "float32" if dtype == "bool" else wide
        diagonal = call.constant(np.array(call.integer(1, "diagonal", 0), np.int64))
        kept = call.made("Trilu", [call.operand(0, wide), diagonal], wide, upper=int(upper))
        return call.cast(kept, dtype)

    return translate


def _repeat_interleave(call: Call) -> Result:
    """Each element so many times in a row: an axis behind it, widened and merged."""
    count = call.integer(1, "repeats")
    x = call.tensor(0)
    if call.is_none(2, "dim"):
        x, axis = call.reshaped(x, [-1]), 0
        shape: tuple[int, ...] = (-1,)
    else:
        shape = call.static_shape(0)
        axis = call.integer(2, "dim") % len(shape)
    lifted = call.made("Unsqueeze", [x, np.array([axis + 1])], x.dtype)
    counts = np.ones(len(shape) + 1, np.int64)
    counts[axis + 1] = count
    widened = call.made("Tile", [lifted, counts], x.dtype)
    sizes = [
        size * count if number == axis and size >= 0 else size for number, size in enumerate(shape)
    ]
    return call.reshaped(widened, sizes)


def _meshgrid(call: Call) -> Result:
    """Each vector along an axis of its own, repeated over the others."""
    vectors = call.tensors(0)
    axes = list(range(len(vectors)))  # of each vector
    if call.setting(1, "indexing", "xy") in ("xy", 1):
        axes[:2] = axes[1::-1]
    sizes = [call.made("Shape", [vectors[axis]], "int64", (1,)) for axis in axes]
    shape = call.made("Concat", sizes, "int64", (len(axes),), axis=0)
    lines = [[-1 if place == axis else 1 for place in range(len(axes))] for axis in axes]
    return [
        call.emit("Expand", call.reshaped(vector, line), shape)
        for vector, line in zip(vectors, lines, strict=True)
    ]


OPS: dict[str, Translation] = {
    **dict.fromkeys(("Reshape", "View"), _reshape),
    **dict.fromkeys(("Transpose", "TransposeView", "Permute"), _transpose),
    **dict.fromkeys(("TransposeExt", "TransposeExtView", "SwapAxes"), _swap_axes),
    "TExt": _transposed,
    "Flatten": _flatten,
    "FlattenExt": _flatten_range,
    "Squeeze": _squeeze,
    **dict.fromkeys(("ExpandDims", "ExpandDimsView", "UnsqueezeExt"), _expand_dims),
    **dict.fromkeys(("Tile", "Repeat"), _tile),
    **dict.fromkeys(("BroadcastTo", "BroadcastToView"), _broadcast_to),
    "ExpandAs": _expand_as,
    "Concat": _concat,
    **dict.fromkeys(("Stack", "StackExt", "Pack"), _stack),
    **dict.fromkeys(("Unstack", "Unpack", "UnstackExtView"), _unstack),
    "Split": _split,
    **dict.fromkeys(
        (
            "SplitTensor",
            "SplitTensorView",
            "SplitWithSize",
            "SplitWithSizeView",
            "Chunk",
            "ChunkView",
        ),
        _split_to_declared,
    ),
    "ReverseV2": _reversed,
    "Roll": _roll,
    **dict.fromkeys(("Triu", "TriuExt"), _triangle(upper=True)),
    **dict.fromkeys(("Tril", "TrilExt"), _triangle(upper=False)),
    "Meshgrid": _meshgrid,
    "RepeatInterleaveInt": _repeat_interleave,
}
