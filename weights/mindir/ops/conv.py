"""Convolutions, and transposed ones."""

import math
from collections.abc import Sequence
from typing import Any

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation

_PAD_MODES = {0: "pad", 1: "same", 2: "valid"}  # mindspore::PadMode
_BY_MODE = ("Conv1DPadding", "Conv2DPadding", "Conv3DPadding", "ConvolutionStr")
_FORMATS = ("NCHW", "NCDHW", 0, 14)


def check_format(call: Call, index: int | None = None, name: str = "format") -> None:
    """Channels must be on axis 1."""
    if call.setting(index, name, "NCHW") not in _FORMATS:
        raise call.refused("only channels on axis 1 are translated (NCHW, NCDHW)")


def pad_mode_of(call: Call, index: int | None = None) -> str:
    """ "same", "valid", or "pad": as the pads say."""
    value = call.setting(index, "pad_mode", "valid")
    mode = _PAD_MODES.get(value, "") if isinstance(value, int) else str(value).lower()
    if mode not in ("same", "valid", "pad", "calculated"):
        raise call.refused(f"its pad_mode is {value!r}")
    return "pad" if mode == "calculated" else mode


def interleaved(pads: Sequence[int]) -> list[int]:
    """MindSpore lists begin and end of each axis in turn, ONNX all begins and then all ends."""
    return [*pads[0::2], *pads[1::2]]


def padding_of(call: Call, spatial: int, mode: str) -> dict[str, Any]:
    """ONNX's attributes for a pad_mode and a pad_list. "same" is without dilation."""
    if mode == "same":
        return {"auto_pad": "SAME_UPPER"}
    if mode == "valid":
        return {}
    pads = call.integers(None, "pad_list" if call.has_attribute("pad_list") else "pad")
    return {"pads": interleaved(pads if len(pads) == 2 * spatial else pads * (2 * spatial))}


def same_pads(
    call: Call, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, Any]:
    """ONNX's attributes for "same", which onnxruntime does not work out itself with a dilation."""
    if set(dilations) == {1}:
        return {"auto_pad": "SAME_UPPER"}
    sizes = (call.tensor(0).shape or ())[2:]
    both = []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        if size < 0 and stride > 1:
            raise call.refused("pad_mode 'same' with a stride and a dilation, over an open size")
        rest = -size % stride if size >= 0 else 0
        both.append(max(dilation * (length - 1) + 1 - stride + rest, 0))
    return {"pads": [*(total // 2 for total in both), *(total - total // 2 for total in both)]}


def widened(values: Sequence[int], count: int) -> tuple[int, ...]:
    """The last `count` of a tuple, which may also name batch and channel; one stands for all."""
    return tuple(values) * count if len(values) == 1 else tuple(values)[-count:]


def _group(call: Call) -> int:
    return call.integer(None, "group" if call.has_attribute("group") else "groups", 1)


def _conv(spatial: int, stride: str) -> Translation:
    """Conv2D and Conv3D, whose settings are attributes."""

    def translate(call: Call) -> Result:
        check_format(call)
        strides = widened(call.integers(None, stride, (1,)), spatial)
        dilations = widened(call.integers(None, _dilation(call), (1,)), spatial)
        mode = pad_mode_of(call)
        if mode == "same":
            padding = same_pads(call, call.static_shape(1)[2:], strides, dilations)
        else:
            padding = padding_of(call, spatial, mode)
        return call.emit(
            "Conv",
            call.tensor(0),
            call.tensor(1),
            strides=strides,
            dilations=dilations,
            group=_group(call),
            **padding,
        )

    return translate


def _dilation(call: Call) -> str:
    return "dilation" if call.has_attribute("dilation") else "dilations"


def _transposed(spatial: int, stride: str) -> Translation:
    """Conv2DTranspose and its like. The file declares the size that comes out."""

    def translate(call: Call) -> Result:
        check_format(call)
        strides = widened(call.integers(None, stride, (1,)), spatial)
        dilations = widened(call.integers(None, _dilation(call), (1,)), spatial)
        kernel = call.static_shape(1)[2:]
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        mode = pad_mode_of(call)
        pads = padding_of(call, spatial, mode).get("pads", [0] * (2 * spatial))
        if mode == "same":
            both = [max(r - s, 0) for r, s in zip(reach, strides, strict=True)]
            pads = [*(total // 2 for total in both), *(total - total // 2 for total in both)]
        return call.emit(
            "ConvTranspose",
            call.tensor(0),
            call.tensor(1),
            strides=strides,
            dilations=dilations,
            group=_group(call),
            pads=pads,
            output_padding=_beyond(call, strides, reach, pads),
        )

    return translate


def _beyond(
    call: Call, strides: Sequence[int], reach: Sequence[int], pads: Sequence[int]
) -> list[int]:
    """What the result has behind the last window: the declared size, where there is one, less what
    the windows cover."""
    shape, declared = call.tensor(0).shape or (), call.out.shape or ()
    beyond = []
    for axis, (stride, length) in enumerate(zip(strides, reach, strict=True)):
        if len(shape) < axis + 3 or len(declared) < axis + 3:
            raise call.refused("the rank of what goes in or comes out is not declared")
        size, wanted = shape[axis + 2], declared[axis + 2]
        covered = stride * (size - 1) + length - pads[axis] - pads[axis + len(strides)]
        beyond.append(max(stride - length, 0) if min(size, wanted) < 0 else wanted - covered)
    if min(beyond) < 0:
        raise call.refused(f"it declares a result of {list(declared)}, smaller than its windows")
    return beyond


def _extended(call: Call) -> Result:
    """PyTorch's form: input, weight, bias, stride, padding, dilation, groups."""
    spatial = call.rank(0) - 2
    strides = widened(call.integers(3, "stride", (1,)), spatial)
    dilations = widened(call.integers(5, "dilation", (1,)), spatial)
    return call.emit(
        "Conv",
        call.tensor(0),
        call.tensor(1),
        call.tensor(2) if call.has(2) else None,
        strides=strides,
        dilations=dilations,
        group=call.integer(6, "groups", 1),
        **_padding_extended(call, strides, dilations),
    )


def _padding_extended(
    call: Call, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> dict[str, Any]:
    """Numbers; or 'same' or 'valid', which operators of their own give by MindSpore's number."""
    padding = call.setting(4, "padding", 0)
    if call.op not in _BY_MODE and not isinstance(padding, str):
        return {"pads": list(widened(call.integers(4, "padding", (0,)), len(strides))) * 2}
    if padding in (1, "same"):
        return same_pads(call, call.static_shape(1)[2:], strides, dilations)
    if padding in (2, "valid"):
        return {}
    raise call.refused(f"its padding is {padding!r}")


def _transposed_extended(call: Call) -> Result:
    """input, weight, bias, stride, padding, output_padding, groups, dilation"""
    spatial = call.rank(0) - 2
    return call.emit(
        "ConvTranspose",
        call.tensor(0),
        call.tensor(1),
        call.tensor(2) if call.has(2) else None,
        strides=widened(call.integers(3, "stride", (1,)), spatial),
        pads=list(widened(call.integers(4, "padding", (0,)), spatial)) * 2,
        output_padding=widened(call.integers(5, "output_padding", (0,)), spatial),
        group=call.integer(6, "groups", 1),
        dilations=widened(call.integers(7, "dilation", (1,)), spatial),
    )


def _convolution(call: Call) -> Result:
    """input, weight, bias, stride, padding, dilation, transposed, output_padding, groups"""
    spatial = call.rank(0) - 2
    is_transposed = call.flag(6, "transposed", False)
    beyond = widened(call.integers(7, "output_padding", (0,)), spatial)
    return call.emit(
        "ConvTranspose" if is_transposed else "Conv",
        call.tensor(0),
        call.tensor(1),
        call.tensor(2) if call.has(2) else None,
        strides=widened(call.integers(3, "stride", (1,)), spatial),
        pads=list(widened(call.integers(4, "padding", (0,)), spatial)) * 2,
        dilations=widened(call.integers(5, "dilation", (1,)), spatial),
        output_padding=beyond if is_transposed else None,
        group=call.integer(8, "groups", 1),
    )


def _depthwise(call: Call) -> Result:
    """MindSpore 1's own operator: a weight of (multiplier, channels, height, width)."""
    check_format(call)
    multiplier, channels, *kernel = call.static_shape(1)
    weight = call.made("Transpose", [call.tensor(1)], call.tensor(1).dtype, perm=[1, 0, 2, 3])
    return call.emit(
        "Conv",
        call.tensor(0),
        call.reshaped(weight, [math.prod((multiplier, channels)), 1, *kernel]),
        strides=widened(call.integers(None, "stride", (1,)), 2),
        dilations=widened(call.integers(None, _dilation(call), (1,)), 2),
        group=channels,
        **padding_of(call, 2, pad_mode_of(call)),
    )


OPS: dict[str, Translation] = {
    "Conv2D": _conv(2, "stride"),
    "Conv3D": _conv(3, "strides"),
    **dict.fromkeys(("Conv2DTranspose", "Conv2DBackpropInput"), _transposed(2, "stride")),
    "Conv3DTranspose": _transposed(3, "strides"),
    **dict.fromkeys((*_BY_MODE, "Conv1DExt", "Conv2DExt", "Conv3DExt"), _extended),
    "ConvTranspose2D": _transposed_extended,
    "Convolution": _convolution,
    "DepthwiseConv2dNative": _depthwise,
}
