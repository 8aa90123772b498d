"""A generated model of 384 MiB: six dense layers of random float32 weights, so large that a copy
per process hurts. The weights lie in a file of their own beside the graph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from weightd.weights.arrays import Array

WIDTH = 4096
LAYERS = 6
NBYTES = LAYERS * WIDTH * WIDTH * 4
INPUT, OUTPUT = "x", "y"
_OPSET, _IR_VERSION = 17, 8
_LAYER_NBYTES = NBYTES // LAYERS
_WEIGHTS = "mlp.weights"


def an_input() -> Array:
    return np.linspace(-1, 1, WIDTH, dtype=np.float32)[np.newaxis]


def write_model(target: Path, on_progress: Callable[[int], object]) -> None:
    """Write the model; on_progress gets the bytes written so far."""
    rng = np.random.default_rng(0)
    with target.with_name(_WEIGHTS).open("wb") as file:
        for layer in range(LAYERS):
            weights = rng.random((WIDTH, WIDTH), dtype=np.float32)
            weights -= np.float32(0.5)
            weights *= np.float32((24 / WIDTH) ** 0.5)  # keeps the size of what passes through
            file.write(weights.data)
            on_progress((layer + 1) * _LAYER_NBYTES)
    onnx.save_model(_model(), target)


def _model() -> onnx.ModelProto:
    nodes = []
    for n in range(LAYERS):
        before = f"relu{n - 1}" if n else INPUT
        after = f"relu{n}" if n < LAYERS - 1 else OUTPUT
        nodes.append(helper.make_node("MatMul", [before, f"layer{n}.weight"], [f"product{n}"]))
        nodes.append(helper.make_node("Relu", [f"product{n}"], [after]))
    takes, gives = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, WIDTH))
        for name in (INPUT, OUTPUT)
    )
    graph = helper.make_graph(nodes, "mlp", [takes], [gives], [_weight(n) for n in range(LAYERS)])
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def _weight(layer: int) -> TensorProto:
    tensor = TensorProto(
        name=f"layer{layer}.weight",
        data_type=TensorProto.FLOAT,
        dims=(WIDTH, WIDTH),
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (
        ("location", _WEIGHTS),
        ("offset", layer * _LAYER_NBYTES),
        ("length", _LAYER_NBYTES),
    ):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
