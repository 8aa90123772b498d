"""Recurrent layers."""

import math

import numpy as np

from weightd.weights.mindir.call import Call
from weightd.weights.mindir.ops.translation import Result, Translation, several
from weightd.weights.mindir.values import Tensor, Untranslated

_GATES = (0, 3, 1, 2)  # MindSpore has input, forget, cell, output; ONNX input, output, forget, cell


def _lstm(call: Call) -> Result:
    """x, h, c and all weights in one row: of the input, of the state, the bias."""
    for name in ("bidirectional", "proj_size"):
        if call.integer(None, name, 0):
            raise call.refused(f"its {name} is not translated; nn.LSTM of the CPU needs none")
    if call.integer(None, "num_layers", 1) != 1:
        raise call.refused("it has several layers in one operator; nn.LSTM writes one for each")
    size, hidden = call.integer(None, "input_size"), call.integer(None, "hidden_size")
    call.check_size([4, hidden])
    has_bias = call.flag(None, "has_bias", True)
    rows = 4 * hidden
    count, wanted = math.prod(call.static_shape(3)), rows * (size + hidden + has_bias)
    if count != wanted:  # a GPU has two biases
        raise call.refused(
            f"it has {count} weights, and a CPU's would have {wanted}; export it with "
            "device_target='CPU'"
        )
    row = call.reshaped(call.tensor(3), [-1])
    w = _part(call, row, 0, (rows, size))
    r = _part(call, row, rows * size, (rows, hidden))
    inputs: list[Tensor | None] = [call.tensor(0), *(_gates(call, part, hidden) for part in (w, r))]
    if has_bias:
        bias = _gates(call, _part(call, row, rows * (size + hidden), (rows, 1)), hidden)
        flat = call.reshaped(bias, [1, rows])
        none = call.constant(np.zeros((1, rows), np.float32))
        inputs.append(call.made("Concat", [flat, call.cast(none, flat.dtype)], flat.dtype, axis=1))
    else:
        inputs.append(None)
    y, h, c = call.emit_all(
        "LSTM", [*inputs, None, call.tensor(1), call.tensor(2)], 3, hidden_size=hidden
    )
    squeezed = call.emit("Squeeze", Tensor(y, call.tensor(0).dtype, None), np.array([1]))
    lost = Untranslated("what an LSTM keeps for training is not translated")
    return several(squeezed, h, c, *[lost] * (len(call.outs()) - 3))


def _part(call: Call, row: Tensor, begin: int, shape: tuple[int, int]) -> Tensor:
    end = begin + shape[0] * shape[1]
    cut = call.made("Slice", [row, np.array([begin]), np.array([end])], row.dtype)
    return call.reshaped(cut, shape)


def _gates(call: Call, part: Tensor, hidden: int) -> Tensor:
    """The rows of the four gates in ONNX's order, with an axis for the direction in front."""
    order = np.concatenate([np.arange(gate * hidden, (gate + 1) * hidden) for gate in _GATES])
    turned = call.made("Gather", [part, order], part.dtype, axis=0)
    return call.made("Unsqueeze", [turned, np.array([0])], part.dtype)


def _reverse_sequence(call: Call) -> Result:
    return call.emit(
        "ReverseSequence",
        call.tensor(0),
        call.cast(call.tensor(1), "int64"),
        time_axis=call.integer(None, "seq_dim"),
        batch_axis=call.integer(None, "batch_dim", 0),
    )


OPS: dict[str, Translation] = {"LSTM": _lstm, "ReverseSequence": _reverse_sequence}
