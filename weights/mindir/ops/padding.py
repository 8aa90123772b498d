"""What puts elements around others, and windows cut from them."""

from collections.abc import Sequence

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, narrowed, wide_of
from weightd.weights.mindir.values import Tensor, Value

_MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "REFLECT": "reflect",
    "replicate": "edge",
    "edge": "edge",
    "circular": "wrap",
    "SYMMETRIC": "symmetric",
}

Pair = tuple[int, int]  # of the height and the width


def _pad_v3(call: Call) -> Result:
    """Pads from the last axis on, begin and end of each in turn. Any of them may be computed."""
    mode = _mode(call, "constant")
    found = call.args[1] if len(call.args) > 1 else call.setting(None, "paddings")
    if isinstance(found, np.ndarray):
        found = tuple(found.reshape(-1).tolist())
    if not isinstance(found, tuple):
        raise call.refused("its paddings are computed as a tensor, not as a tuple")
    pads = list(found)
    if not call.flag(None, "paddings_contiguous", True):
        half = len(pads) // 2
        pads = [pad for pair in zip(pads[:half], pads[half:], strict=True) for pad in pair]
    return _padded(call, pads, mode, 2)


def _mode(call: Call, default: str) -> str:
    mode = call.text(None, "mode", default)
    if mode not in _MODES:
        raise call.refused(f"its mode is {mode!r}")
    return _MODES[mode]


def _pad_pairs(call: Call) -> Result:
    """Pads of each axis in order, as pairs."""
    value = call.setting(1, "paddings")
    if isinstance(value, np.ndarray):
        value = tuple(tuple(pair) for pair in value.tolist())
    if not isinstance(value, tuple):
        raise call.refused("its paddings are no pairs")
    pads = [
        n for pair in reversed(value) if isinstance(pair, tuple) for n in pair if isinstance(n, int)
    ]
    if len(pads) != 2 * call.rank(0):
        raise call.refused("its paddings are not a pair for each axis")
    return _padded(call, pads, "constant" if call.op == "Pad" else _mode(call, ""))


def _pad_as(mode: str, fill: int | None = None) -> Translation:
    def translate(call: Call) -> Result:
        return _padded(call, call.integers(1, "padding"), mode, fill)

    return translate


def _padded(call: Call, pads: Sequence[Value], mode: str, fill: int | None = None) -> Result:
    """pads: of the last axis first. A negative one cuts. fill: which argument is put there."""
    if len(pads) % 2 or len(pads) > 2 * call.rank(0):
        raise call.refused(f"it has {len(pads)} pads for {call.rank(0)} axes")
    known = [pad for pad in pads if isinstance(pad, int)]
    if mode == "symmetric":
        return _mirrored(call, known)
    if mode != "constant" and (min(known, default=0) < 0 or len(known) < len(pads)):
        raise call.refused("its pads are negative or computed, and it is not of a constant")
    if mode == "wrap":
        _check_fits(call, known)
    wide = wide_of(call.out.dtype)
    ends_at = call.joined([*pads[0::2], *pads[1::2]], "its paddings")
    axes = np.arange(-1, -len(pads) // 2 - 1, -1)
    inputs = [call.operand(0, wide), ends_at, None, call.constant(axes)]
    if mode == "constant" and fill is not None and call.has(fill):
        inputs[2] = call.reshaped(call.operand(fill, wide), [])
    return narrowed(call, call.emit("Pad", *inputs, mode=mode), call.out.dtype)


def _check_fits(call: Call, pads: Sequence[int]) -> None:
    """A circular pad of more elements than there are is something else in MindSpore."""
    shape = call.static_shape(0)
    sizes = [shape[-1 - number // 2] for number in range(len(pads))]
    if any(pad > size for pad, size in zip(pads, sizes, strict=True)):
        raise call.refused(f"its pads {list(pads)} are of more elements than there are")


def _mirrored(call: Call, pads: list[int]) -> Result:
    """The outermost elements come twice, which ONNX's own reflection does not do."""
    x, shape = call.tensor(0), call.static_shape(0)
    for number, (begin, end) in enumerate(zip(pads[0::2], pads[1::2], strict=True)):
        size = shape[-1 - number]
        if not 0 <= min(begin, end) <= max(begin, end) <= size:
            raise call.refused(f"it mirrors {begin} and {end} of {size} elements")
        if begin or end:
            call.check_size([size])
            places = np.pad(np.arange(size), (begin, end), "symmetric")
            x = call.made("Gather", [x, places], x.dtype, axis=-1 - number)
    return x


def _windows(call: Call) -> Result:
    """Im2Col: of N C H W, each window's elements as N, C, elements, windows."""
    settings = [_pair(call, None, name) for name in ("ksizes", "dilations", "pads", "strides")]
    if call.text(None, "padding_mode", "CALCULATED") != "CALCULATED":
        raise call.refused("only pads that are numbers are translated")
    x, channels, elements, windows = _cut(call, *settings)
    return call.reshaped(x, [-1, channels, elements, windows])


def _windows_as_columns(call: Call) -> Result:
    """Im2ColExt: the same as N, C * elements, windows. The settings are arguments."""
    names = ("kernel_size", "dilation", "padding", "stride")
    settings = [_pair(call, 1 + number, name) for number, name in enumerate(names)]
    x, channels, elements, windows = _cut(call, *settings)
    return call.reshaped(x, [-1, channels * elements, windows])


def _cut(
    call: Call, kernels: Pair, dilations: Pair, pads: Pair, strides: Pair
) -> tuple[Tensor, int, int, int]:
    """Windows as N, C, rows and columns within, rows and columns of windows; and the sizes of C,
    within and of windows. The batch may be open."""
    x, shape = call.tensor(0), call.tensor(0).shape
    if shape is None or len(shape) != 4 or min(shape[1:]) < 0:
        raise call.refused("the channels, height and width of its argument are not all known")
    x = call.made("Pad", [x, np.array([0, 0, *pads, 0, 0, *pads])], x.dtype)
    counts = []
    for axis in (0, 1):
        reach = dilations[axis] * (kernels[axis] - 1) + 1
        counts.append((shape[2 + axis] + 2 * pads[axis] - reach) // strides[axis] + 1)
        call.check_size([kernels[axis], counts[axis]])
        starts = np.arange(counts[axis]) * strides[axis]
        places = np.arange(kernels[axis])[:, None] * dilations[axis] + starts
        x = call.made("Gather", [x, places], x.dtype, axis=2 + 2 * axis)
    x = call.made("Transpose", [x], x.dtype, perm=[0, 1, 2, 4, 3, 5])
    return x, shape[1], kernels[0] * kernels[1], counts[0] * counts[1]


def _pair(call: Call, index: int | None, name: str) -> Pair:
    """A setting of the height and the width; one number is for both."""
    found = call.integers(index, name)
    if len(found) > 2 or not found or min(found) < 0 or (name[:3] != "pad" and not min(found)):
        raise call.refused(f"its {name} is {found}")
    return found[0], found[-1]


OPS: dict[str, Translation] = {
    "PadV3": _pad_v3,
    **dict.fromkeys(("Pad", "MirrorPad"), _pad_pairs),
    "ConstantPadND": _pad_as("constant", 2),
    **{f"ReflectionPad{n}D": _pad_as("reflect") for n in (1, 2, 3)},
    **{f"ReplicationPad{n}D": _pad_as("edge") for n in (1, 2, 3)},
    "Im2Col": _windows,
    "Im2ColExt": _windows_as_columns,
}
