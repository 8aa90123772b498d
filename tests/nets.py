"""Small ONNX graphs for tests, what a private onnxruntime session answers, and what files hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from weightd.weights.arrays import Array
from weightd.weights.source import open_source

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str]


def port(name: str, shape: Shape, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Array] | Sequence[onnx.TensorProto] = (),
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """A model of these nodes, by default from x float32[n, 16] to y float32[n, 16]."""
    if isinstance(tensors, Mapping):
        tensors = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(
        list(nodes),
        "net",
        list(inputs) or [port("x", ["n", 16])],
        list(outputs) or [port("y", ["n", 16])],
        list(tensors),
    )
    opset = [helper.make_opsetid("", 17)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return made


def dense(value: float = 0.5, size: int = 16, *, extra: Mapping[str, Array] | None = None) -> Any:
    """y = x @ w + b, with every weight the same number."""
    tensors = {
        "w": np.full((16, size), value, np.float32),
        "b": np.full((size,), value, np.float32),
        **(extra or {}),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    return model(nodes, tensors, outputs=[port("y", ["n", size])])


def normalised(weights: Mapping[str, Array]) -> onnx.ModelProto:
    """A convolution and a batch normalisation, which engines fold into one: from x
    float32[1, 2, 5, 5] to y float32[1, 4, 5, 5]."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["y"]),
    ]
    x, y = port("x", [1, 2, 5, 5]), port("y", [1, 4, 5, 5])
    return model(nodes, weights, inputs=[x], outputs=[y])


def normalised_parts() -> tuple[dict[str, Array], Array]:
    """Weights for normalised(), and an input."""
    rng = np.random.default_rng(1)
    weights: dict[str, Array] = {"w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32)}
    for name in ("scale", "shift", "mean", "var"):
        weights[name] = rng.random(4).astype(np.float32) + 0.5
    return weights, rng.standard_normal((1, 2, 5, 5)).astype(np.float32)


def saved(net: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(net.SerializeToString())
    return path


def privately(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime answers when nothing is shared."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def tensors_of(path: Path) -> dict[str, bytes]:
    """The bytes of a file's tensors, by name."""
    with path.open("rb") as file, open_source(file.fileno(), file_name=path.name) as source:
        found = {}
        for name, spec in source.tensors.items():
            target = bytearray(spec.nbytes)
            source.read_into(name, memoryview(target))
            found[name] = bytes(target)
        return found


def arrays_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file, open_source(file.fileno(), file_name=path.name) as source:
        shapes = {name: spec.shape for name, spec in source.tensors.items()}
    return {
        name: np.frombuffer(raw, np.float32).reshape(shapes[name])
        for name, raw in tensors_of(path).items()
    }
