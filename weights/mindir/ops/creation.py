"""What makes tensors of nothing: zeros, ranges, one-hot."""

import numpy as np

from weightd.weights.arrays import numpy_dtype
from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, narrowed, wide_of
from weightd.weights.mindir.values import Tensor


def _filled_with(value: int) -> Translation:
    """Of a shape, known or computed."""

    def translate(call: Call) -> Result:
        return _filled(call, call.number_of(value, call.out.dtype))

    return translate


def _filled(call: Call, value: Tensor, size: int = 0) -> Result:
    return call.emit("Expand", value, call.vector(size))


def _new(value: int) -> Translation:
    """input, size: of the input's dtype, unless another is declared."""
    return lambda call: _filled(call, call.number_of(value, call.out.dtype), 1)


def _like(value: int) -> Translation:
    def translate(call: Call) -> Result:
        shape = call.made("Shape", [call.tensor(0)], "int64")
        return call.emit("Expand", call.number_of(value, call.out.dtype), shape)

    return translate


def _fill(call: Call) -> Result:
    """shape, value"""
    return _filled(call, call.reshaped(call.operand(1, call.out.dtype), []))


def _full_like(call: Call) -> Result:
    shape = call.made("Shape", [call.tensor(0)], "int64")
    return call.emit("Expand", call.reshaped(call.operand(1, call.out.dtype), []), shape)


def _range(call: Call) -> Result:
    dtype = call.out.dtype
    wide = wide_of(dtype)
    bounds = [call.reshaped(call.operand(index, wide), []) for index in range(3)]
    return narrowed(call, call.emit("Range", *bounds), dtype)


def _linspace(call: Call) -> Result:
    start, stop = call.number(0, "start"), call.number(1, "stop")
    count = call.integer(2, "num")
    call.check_size([count])
    return call.constant(np.linspace(start, stop, count, dtype=numpy_dtype(call.out.dtype)))


def _eye(call: Call) -> Result:
    rows, columns = call.integer(0, "n"), call.integer(1, "m")
    call.check_size([rows, columns])
    return call.constant(np.eye(rows, columns, dtype=numpy_dtype(call.out.dtype)))


def _one_hot(call: Call) -> Result:
    """indices, depth, on, off, axis. A negative index, or one beyond, gives a row of off; ONNX
    counts negative ones from the end, so they are sent beyond."""
    dtype = call.out.dtype
    depth = call.reshaped(call.scalar(call.args[1], "depth"), [])
    indices = call.operand(0, "int64")
    is_below = call.made("Less", [indices, call.number_of(0, "int64")], "bool")
    safe = call.made("Where", [is_below, depth, indices], "int64")
    wide = "float32" if "float" in dtype else "int64"
    values = [call.reshaped(call.operand(index, wide), [1]) for index in (3, 2)]
    pair = call.made("Concat", values, wide, (2,), axis=0)
    made = call.made("OneHot", [safe, depth, pair], wide, axis=call.integer(4, "axis", -1))
    return call.cast(made, dtype)


def _random(call: Call) -> Result:
    raise call.refused(
        "it makes random numbers, so that no two answers would be the same; make them outside and "
        "give them as an input"
    )


_RANDOM = (
    *("StandardNormal", "StandardLaplace", "Gamma", "Poisson", "TruncatedNormal"),
    *("UniformReal", "UniformInt", "UniformExt", "BernoulliExt", "Multinomial", "MultinomialExt"),
    *("RandExt", "RandLikeExt", "Randn", "RandnLike", "RandInt", "RandIntLike"),
    *("Bernoulli", "RandpermV2", "RandpermExt", "RandomShuffle", "RandomChoiceWithMask"),
    *("NormalFloatFloat", "NormalFloatTensor", "NormalTensorFloat", "NormalTensorTensor"),
)

OPS: dict[str, Translation] = {
    "Zeros": _filled_with(0),
    "Ones": _filled_with(1),
    **dict.fromkeys(("ZerosLike", "ZerosLikeExt"), _like(0)),
    **dict.fromkeys(("OnesLike", "OnesLikeExt"), _like(1)),
    **dict.fromkeys(("FillV2", "FillScalar", "FillTensor"), _fill),
    "FullLike": _full_like,
    "NewZeros": _new(0),
    "NewOnes": _new(1),
    **dict.fromkeys(("Range", "Arange"), _range),
    **dict.fromkeys(("LinSpace", "LinSpaceExt"), _linspace),
    "Eye": _eye,
    **dict.fromkeys(("OneHot", "OneHotExt"), _one_hot),
    **dict.fromkeys(_RANDOM, _random),
}
