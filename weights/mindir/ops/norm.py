"""Normalisation."""

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.conv import check_format
from weightd.weights.mindir.ops.translation import Result, Translation
from weightd.weights.mindir.values import Tensor, Untranslated

_STATISTICS = Untranslated("the statistics of a normalisation are not translated, only its result")
_TRAINING = (
    "it is in training mode, and would change its own statistics; call network.set_train(False) "
    "before the export"
)


def _and_statistics(call: Call, name: str) -> list[str | Untranslated]:
    return [name, *[_STATISTICS] * (len(call.outs()) - 1)]


def _batch_norm(call: Call) -> Result:
    if call.flag(5, "is_training", False):
        raise call.refused(_TRAINING)
    check_format(call, 8, "format")
    parts = [call.tensor(index) for index in range(5)]
    epsilon = call.number(6, "epsilon", 1e-5)
    return _and_statistics(call, call.emit("BatchNormalization", *parts, epsilon=epsilon))


def _batch_norm_ext(call: Call) -> Result:
    """input, weight, bias, running_mean, running_var, training, momentum, eps"""
    if call.flag(5, "training", False):
        raise call.refused(_TRAINING)
    mean, variance = call.tensor(3), call.tensor(4)
    channels = (mean.shape or (0,))[0]
    scale = _given(call, 1, (channels,), 1)
    bias = _given(call, 2, (channels,), 0)
    epsilon = call.number(7, "eps", 1e-5)
    return _and_statistics(
        call,
        call.emit(
            "BatchNormalization", call.tensor(0), scale, bias, mean, variance, epsilon=epsilon
        ),
    )


def _given(call: Call, index: int, shape: tuple[int, ...], value: int) -> Tensor:
    """A scale or bias that may be left out."""
    if call.has(index):
        return call.tensor(index)
    return call.filled(shape, value, call.tensor(0).dtype)


def _layer_norm(call: Call) -> Result:
    """x, gamma, beta, begin_norm_axis, begin_params_axis, epsilon"""
    rank = call.rank(0)
    axis = call.integer(3, "begin_norm_axis", 1) % rank
    params_axis = call.integer(4, "begin_params_axis", 1) % rank
    epsilon = call.number(5, "epsilon", 1e-7)
    x, gamma, beta = (call.tensor(index) for index in range(3))
    if axis == params_axis:
        return _and_statistics(
            call, call.emit("LayerNormalization", x, gamma, beta, axis=axis, epsilon=epsilon)
        )
    shape = call.static_shape(0)[axis:]
    one = call.filled(shape, 1, x.dtype)
    plain = call.made("LayerNormalization", [x, one], x.dtype, axis=axis, epsilon=epsilon)
    scaled = call.made("Mul", [plain, gamma], x.dtype)
    return _and_statistics(call, call.emit("Add", scaled, beta))


def _layer_norm_ext(call: Call) -> Result:
    """input, normalized_shape, weight, bias, eps"""
    shape = call.integers(1, "normalized_shape")
    scale, bias = _given(call, 2, shape, 1), _given(call, 3, shape, 0)
    name = call.emit(
        "LayerNormalization",
        call.tensor(0),
        scale,
        bias,
        axis=-len(shape),
        epsilon=call.number(4, "eps", 1e-5),
    )
    return _and_statistics(call, name)


def _group_norm(call: Call) -> Result:
    """input, num_groups, weight, bias, eps. Each group is normalised as one channel."""
    x, groups = call.tensor(0), call.integer(1, "num_groups")
    target = call.constant(np.array([0, groups, -1], np.int64))
    grouped = call.made("Reshape", [x, target], x.dtype)
    unit = call.filled([groups], 1, x.dtype), call.filled([groups], 0, x.dtype)
    epsilon = call.number(4, "eps", 1e-5)
    plain = call.made("InstanceNormalization", [grouped, *unit], x.dtype, epsilon=epsilon)
    sizes = call.made("Shape", [x], "int64")
    y = call.made("Reshape", [plain, sizes], x.dtype)
    for index, op in ((2, "Mul"), (3, "Add")):
        if call.has(index):
            y = call.made(op, [y, _by_channel(call, call.tensor(index))], x.dtype)
    return _and_statistics(call, y.name)


def _by_channel(call: Call, values: Tensor) -> Tensor:
    return call.reshaped(values, [-1, *[1] * (call.rank(0) - 2)])


def _instance_norm(call: Call) -> Result:
    """x, gamma, beta, mean, variance: the last two are for training only."""
    parts = [call.tensor(index) for index in range(3)]
    epsilon = call.number(None, "epsilon", 1e-5)
    return _and_statistics(call, call.emit("InstanceNormalization", *parts, epsilon=epsilon))


def _rms_norm(call: Call) -> Result:
    """By the root of the mean of squares, over the axes that gamma has."""
    x, gamma = call.tensor(0), call.tensor(1)
    axes = np.arange(-len(gamma.shape or (1,)), 0)
    square = call.made("Mul", [x, x], x.dtype)
    mean = call.made("ReduceMean", [square, axes], x.dtype, keepdims=1)
    epsilon = call.number_of(call.number(2, "epsilon", 1e-6), x.dtype)
    root = call.made("Sqrt", [call.made("Add", [mean, epsilon], x.dtype)], x.dtype)
    return _and_statistics(call, call.emit("Mul", call.made("Div", [x, root], x.dtype), gamma))


def _l2_normalize(call: Call) -> Result:
    """x / sqrt(max(sum of squares, epsilon))"""
    x, axes = call.tensor(0), call.integers(None, "axis", (0,))
    total = call.made("ReduceSumSquare", [x, np.array(axes)], x.dtype, keepdims=1)
    least = call.number_of(call.number(None, "epsilon", 1e-4), x.dtype)
    root = call.made("Sqrt", [call.made("Max", [total, least], x.dtype)], x.dtype)
    return call.emit("Div", x, root)


def _lrn(call: Call) -> Result:
    size = 2 * call.integer(None, "depth_radius", 5) + 1
    return call.emit(
        "LRN",
        call.tensor(0),
        size=size,
        alpha=call.number(None, "alpha", 1.0) * size,  # ONNX divides it by the size
        beta=call.number(None, "beta", 0.5),
        bias=call.number(None, "bias", 1.0),
    )


def _norm(call: Call) -> Result:
    """input, p, dim, keepdim: of vectors."""
    p = call.number(1, "p", 2)
    axes = None if call.is_none(2, "dim") else call.integers(2, "dim")
    return _vector_norm(call, p, axes, keep=call.flag(3, "keepdim", False))


def _lp_norm(call: Call) -> Result:
    p = call.number(None, "p", 2)
    return _vector_norm(
        call, p, call.integers(None, "axis"), keep=call.flag(None, "keep_dims", False)
    )


def _vector_norm(call: Call, p: float, axes: tuple[int, ...] | None, *, keep: bool) -> Result:
    ops = {1.0: "ReduceL1", 2.0: "ReduceL2"}
    if p not in ops:
        raise call.refused(f"its p is {p:g}; 1 and 2 are translated")
    given = [] if not axes else [np.array(axes, np.int64)]
    return call.emit(ops[p], call.operand(0, call.out.dtype), *given, keepdims=int(keep))


OPS: dict[str, Translation] = {
    "BatchNorm": _batch_norm,
    "BatchNormExt": _batch_norm_ext,
    **dict.fromkeys(("LayerNorm", "LayerNormV3"), _layer_norm),
    "LayerNormExt": _layer_norm_ext,
    "GroupNorm": _group_norm,
    "InstanceNorm": _instance_norm,
    "RmsNorm": _rms_norm,
    "L2Normalize": _l2_normalize,
    "LRN": _lrn,
    **dict.fromkeys(("Norm", "LinalgVectorNorm"), _norm),
    "LpNorm": _lp_norm,
}
