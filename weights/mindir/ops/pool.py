"""Pooling."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.conv import pads_of
from weightd.weights.mindir.ops.translation import Result, Translation


def _max_pool(call: Call) -> Result:
    if call.text(None, "format", "NCHW") != "NCHW":
        raise call.refused("only the format NCHW is translated")
    return call.emit(
        "MaxPool",
        call.tensor(0),
        kernel_shape=call.integers(None, "kernel_size")[-2:],
        strides=call.integers(None, "strides")[-2:],
        **pads_of(call, call.text(None, "pad_mode"), ()),
    )


OPS: dict[str, Translation] = {"MaxPool": _max_pool}
