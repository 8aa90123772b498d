"""Convolutions."""

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation

_PAD_MODES = {0: "pad", 1: "same", 2: "valid"}


def pads_of(call: Call, pad_mode: str, pads: tuple[int, ...]) -> dict[str, object]:
    """ONNX's padding. MindSpore lists begin and end of each axis in turn, ONNX all begins first."""
    match pad_mode.lower():
        case "same":
            return {"auto_pad": "SAME_UPPER"}
        case "valid":
            return {"auto_pad": "VALID"}
        case "pad":
            return {"pads": [*pads[0::2], *pads[1::2]]}
        case _:
            raise call.refused(f"pad_mode is {pad_mode!r}")


def _conv2d(call: Call) -> Result:
    if call.text(None, "format", "NCHW") != "NCHW":
        raise call.refused("only the format NCHW is translated")
    x, weight = call.tensor(0), call.tensor(1)
    return call.emit(
        "Conv",
        x,
        weight,
        strides=call.integers(None, "stride")[-2:],
        dilations=call.integers(None, "dilation", (1, 1))[-2:],
        group=call.integer(None, "group", 1),
        **pads_of(call, call.text(None, "pad_mode"), call.integers(None, "pad_list", (0,) * 4)),
    )


OPS: dict[str, Translation] = {"Conv2D": _conv2d}
