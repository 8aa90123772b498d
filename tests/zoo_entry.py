"""What an entry of the zoo is, and the few words that its models are written in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from weightd.weights.arrays import Array

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
BOOL = TensorProto.BOOL

Shape = Sequence[int | str]
Rng = np.random.Generator
Feed = dict[str, Array]


@dataclass(frozen=True)
class Entry:
    """make: the model, with weights out of a generator; whatever the generator, the graph has the
    same nodes and its weights the same names, dtypes and shapes. feed: what to ask it."""

    name: str
    make: Callable[[Rng], onnx.ModelProto]
    feed: Callable[[Rng], Feed]
    has_weights: bool = True


def net(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Array | TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    initializers = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
        for name, value in tensors.items()
    ]
    graph = helper.make_graph(list(nodes), "zoo", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return made


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are names with spaces between, "-" is one left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    made: onnx.NodeProto = helper.make_node(kind, names, outputs.split(), **attributes)
    return made


def microsoft(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node of onnxruntime's own domain."""
    return node(kind, inputs, outputs, domain="com.microsoft", **attributes)


def port(name: str, *shape: int | str, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    made: onnx.ValueInfoProto = helper.make_tensor_value_info(name, dtype, shape)
    return made


def weights(rng: Rng, *shape: int) -> Array:
    """Random floats, small enough that many layers of them stay near 1."""
    fan_in = max(shape[-2:], default=1)
    made: Array = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return made


def positive(rng: Rng, *shape: int) -> Array:
    """For scales and variances."""
    made: Array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return made


def whole(rng: Rng, dtype: type[np.integer[Any]], *shape: int) -> Array:
    """Random integers of the dtype's whole range, as quantised weights are."""
    info = np.iinfo(dtype)
    made: Array = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return made


def floats(**shapes: Sequence[int]) -> Callable[[Rng], Feed]:
    """A feed of random float32 inputs, by name."""
    return lambda rng: {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


def ids(name: str, below: int, *shape: int) -> Callable[[Rng], Feed]:
    """A feed of one int64 input: rows of a table."""
    return lambda rng: {name: rng.integers(0, below, shape)}
