"""Building ONNX models: nodes that name their outputs themselves, and random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from weightd.weights.arrays import Array

_OPSET, _IR_VERSION = 17, 9
OUTPUT = "y"


class Graph:
    """A model that grows node by node. The same calls give the same weights."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns its output."""
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def random(self, name: str, *shape: int, scale: float = 0.01, mean: float = 0.0) -> str:
        """Add normally distributed weights; returns their name."""
        values = self._rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(scale)
        values += np.float32(mean)
        return self.constant(name, values)

    def constant(self, name: str, value: Array) -> str:
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def dense(self, x: str, name: str, width: int, out: int) -> str:
        """x times a matrix, plus a bias; keeps the size of what passes through."""
        product = self.op("MatMul", x, self.random(f"{name}.weight", width, out, scale=width**-0.5))
        return self.op("Add", product, self.random(f"{name}.bias", out))

    def write(
        self,
        target: Path,
        input_name: str,
        shape: Sequence[int | str],
        output_shape: Sequence[int | str],
        dtype: int = TensorProto.FLOAT,
    ) -> None:
        """Write the model. The last node's output is the model's."""
        self._nodes[-1].output[0] = OUTPUT
        takes = helper.make_tensor_value_info(input_name, dtype, shape)
        gives = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output_shape)
        graph = helper.make_graph(self._nodes, target.stem, [takes], [gives], self._weights)
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        onnx.save_model(model, target)
