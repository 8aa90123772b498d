"""Pooling."""

import math
from typing import Any

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.conv import (
    check_format,
    pad_mode_of,
    padding_of,
    widened,
)
from weightd.weights.mindir.ops.translation import Result, Translation, several
from weightd.weights.mindir.values import Tensor, Untranslated

_NO_PLACES = Untranslated("where the largest numbers of a pooling stood is not translated")


def _max_pool(call: Call) -> Result:
    check_format(call)
    return call.emit(
        "MaxPool",
        call.tensor(0),
        kernel_shape=widened(call.integers(None, "kernel_size"), 2),
        strides=widened(call.integers(None, "strides", (1,)), 2),
        **padding_of(call, 2, pad_mode_of(call)),
    )


def _max_pool_3d(call: Call) -> Result:
    check_format(call)
    return call.emit(
        "MaxPool",
        call.tensor(0),
        kernel_shape=widened(call.integers(None, "kernel_size"), 3),
        strides=widened(call.integers(None, "strides", (1,)), 3),
        ceil_mode=call.integer(None, "ceil_mode", 0) or 0,
        **padding_of(call, 3, pad_mode_of(call)),
    )


def _with_places(spatial: int) -> Translation:
    """With ksize, strides, pads, dilation and ceil_mode as attributes. Two results."""

    def translate(call: Call) -> Result:
        kernel = "ksize" if call.has_attribute("ksize") else "kernel_size"
        name = call.emit(
            "MaxPool",
            call.tensor(0),
            kernel_shape=widened(call.integers(None, kernel), spatial),
            strides=widened(call.integers(None, "strides"), spatial),
            pads=list(widened(call.integers(None, "pads", (0,)), spatial)) * 2,
            dilations=widened(call.integers(None, "dilation", (1,)), spatial),
            ceil_mode=int(call.flag(None, "ceil_mode", False)),
        )
        return several(name, _NO_PLACES)

    return translate


def _with_mask(call: Call) -> Result:
    """PyTorch's form: input, kernel, strides, pads, dilation, ceil_mode."""
    kernel = widened(call.integers(1, "kernel_size"), 2)
    name = call.emit(
        "MaxPool",
        call.tensor(0),
        kernel_shape=kernel,
        strides=kernel if call.is_none(2, "strides") else widened(call.integers(2, "strides"), 2),
        pads=list(widened(call.integers(3, "pads", (0,)), 2)) * 2,
        dilations=widened(call.integers(4, "dilation", (1,)), 2),
        ceil_mode=int(call.flag(5, "ceil_mode", False)),
    )
    return several(name, _NO_PLACES)


def _avg_pool(call: Call) -> Result:
    """What is padded does not count."""
    check_format(call, 4, "format")
    mode = pad_mode_of(call, 3)
    if mode == "pad":
        raise call.refused("its pads are not in the file")
    return call.emit(
        "AveragePool",
        call.tensor(0),
        kernel_shape=widened(call.integers(1, "kernel_size"), 2),
        strides=widened(call.integers(2, "strides"), 2),
        auto_pad="SAME_UPPER" if mode == "same" else "VALID",
    )


def _avg_pool_3d(call: Call) -> Result:
    check_format(call)
    return _averaged(
        call,
        kernel=widened(call.integers(None, "kernel_size"), 3),
        strides=widened(call.integers(None, "strides"), 3),
        padding=padding_of(call, 3, pad_mode_of(call)),
        ceil_mode=call.flag(None, "ceil_mode", False),
        counts_pads=call.flag(None, "count_include_pad", True),
        divisor=call.integer(None, "divisor_override", 0),
    )


def _avg_pool_ext(spatial: int) -> Translation:
    """PyTorch's form: input, kernel, stride, padding, ceil_mode, count_include_pad, divisor."""

    def translate(call: Call) -> Result:
        kernel = widened(call.integers(1, "kernel_size"), spatial)
        strides = () if call.is_none(2, "stride") else call.integers(2, "stride")
        return _averaged(
            call,
            kernel=kernel,
            strides=widened(strides, spatial) if strides else kernel,
            padding={"pads": list(widened(call.integers(3, "padding", (0,)), spatial)) * 2},
            ceil_mode=call.flag(4, "ceil_mode", False),
            counts_pads=call.flag(5, "count_include_pad", True),
            divisor=0 if call.is_none(6, "divisor_override") else call.integer(6, "divisor"),
        )

    return translate


def _averaged(  # noqa: PLR0913 - each is a setting of the operator
    call: Call,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    padding: dict[str, Any],
    ceil_mode: bool,
    counts_pads: bool,
    divisor: int,
) -> Result:
    """divisor: by what to divide a window's sum; 0: by its count."""
    x = call.tensor(0)
    if ceil_mode and _has_rest(call, kernel, strides, padding) and (counts_pads or divisor):
        raise call.refused(
            "with ceil_mode and count_include_pad its last windows are counted otherwise in ONNX"
        )
    mean = call.made(
        "AveragePool",
        [x],
        x.dtype,
        kernel_shape=kernel,
        strides=strides,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(counts_pads or bool(divisor)),
        **padding,
    )
    if not divisor:
        return mean
    return call.emit("Mul", mean, call.number_of(math.prod(kernel) / divisor, x.dtype))


def _has_rest(
    call: Call, kernel: tuple[int, ...], strides: tuple[int, ...], padding: dict[str, Any]
) -> bool:
    """Whether ceil_mode adds windows that reach over the end."""
    pads = padding.get("pads", [0] * (2 * len(kernel)))
    shape = call.static_shape(0)[2:]
    return any(
        (size + pads[axis] + pads[axis + len(kernel)] - kernel[axis]) % strides[axis]
        for axis, size in enumerate(shape)
    )


def _adaptive_mean(spatial: int) -> Translation:
    """Windows of unequal sizes are a product with a matrix of their weights, axis by axis."""

    def translate(call: Call) -> Result:
        x = call.tensor(0)
        sizes = _adaptive_sizes(call, spatial)
        if all(size == 1 for size in sizes):
            rank = call.rank(0)
            axes = np.arange(rank - spatial, rank)
            return call.emit("ReduceMean", x, axes, keepdims=1)
        shape = call.static_shape(0)
        for axis, wanted in zip(range(-spatial, 0), sizes, strict=True):
            x = _averaged_axis(call, x, axis, shape[axis], wanted)
        return x

    return translate


def _adaptive_sizes(call: Call, spatial: int) -> tuple[int, ...]:
    """The sizes that are asked for; None or -1: the argument's own."""
    asked = call.setting(1, "output_size", None)
    sizes = asked if isinstance(asked, tuple) else (asked,) * spatial
    own = (call.tensor(0).shape or (-1,) * spatial)[-spatial:]
    found = [
        size if isinstance(size, int) and size > 0 else kept
        for size, kept in zip(sizes, own, strict=True)
    ]
    if min(found) < 0:
        raise call.refused("the size of its result is open")
    return tuple(found)


def _windows(size: int, wanted: int) -> list[tuple[int, int]]:
    return [(i * size // wanted, -(-(i + 1) * size // wanted)) for i in range(wanted)]


def _averaged_axis(call: Call, x: Tensor, axis: int, size: int, wanted: int) -> Tensor:
    if size == wanted:
        return x
    call.check_size([size, wanted])
    weights = np.zeros((size, wanted))
    for column, (begin, end) in enumerate(_windows(size, wanted)):
        weights[begin:end, column] = 1 / (end - begin)
    matrix = call.cast(call.constant(weights), x.dtype)
    if axis == -1:
        return call.made("MatMul", [x, matrix], x.dtype)
    order = list(range(call.rank(0)))
    order[axis], order[-1] = order[-1], order[axis]
    turned = call.made("Transpose", [x], x.dtype, perm=order)
    made = call.made("MatMul", [turned, matrix], x.dtype)
    return call.made("Transpose", [made], x.dtype, perm=order)


def _adaptive_max(call: Call) -> Result:
    """Of windows of one size: where the result's size divides the argument's."""
    spatial = 1 if "1D" in call.op else 2
    sizes, shape = _adaptive_sizes(call, spatial), call.static_shape(0)[-spatial:]
    if any(size % wanted for size, wanted in zip(shape, sizes, strict=True)):
        raise call.refused(f"its windows over {shape} to {sizes} are of unequal sizes")
    kernel = [size // wanted for size, wanted in zip(shape, sizes, strict=True)]
    x = call.tensor(0)
    is_single = call.rank(0) == spatial + 1
    if is_single:
        x = call.made("Unsqueeze", [x, np.array([0])], x.dtype)
    name = call.emit("MaxPool", x, kernel_shape=kernel, strides=kernel)
    if is_single:
        name = call.emit("Squeeze", call.named(name, x.dtype), np.array([0]))
    return several(name, _NO_PLACES) if len(call.outs()) > 1 else name


OPS: dict[str, Translation] = {
    "MaxPool": _max_pool,
    "MaxPool3D": _max_pool_3d,
    "MaxPool3DWithArgmax": _with_places(3),
    "MaxPoolWithArgmaxV2": _with_places(2),
    **dict.fromkeys(("MaxPoolWithMask", "MaxPoolWithIndices"), _with_mask),
    "AvgPool": _avg_pool,
    "AvgPool3D": _avg_pool_3d,
    **{f"AvgPool{n}D": _avg_pool_ext(n) for n in (1, 2)},
    "AvgPool3DExt": _avg_pool_ext(3),
    "AdaptiveAvgPool1D": _adaptive_mean(1),
    **dict.fromkeys(("AdaptiveAvgPool2D", "AdaptiveAvgPool2DExt"), _adaptive_mean(2)),
    **dict.fromkeys(("AdaptiveAvgPool3D", "AdaptiveAvgPool3DExt"), _adaptive_mean(3)),
    **dict.fromkeys(("AdaptiveMaxPool1D", "AdaptiveMaxPool2D"), _adaptive_max),
}
