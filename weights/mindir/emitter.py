"""The ONNX graph as it grows: nodes, constants, the weights that it uses, and names for them all.

Names come from MindSpore's scopes, which are the same each time a network is exported; its node
names count on from whatever the process exported before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from weightd.errors import BadFileError
from weightd.weights.arrays import Array, dtype_name
from weightd.weights.dtypes import MAX_NAME_LENGTH
from weightd.weights.mindir.inference import IR_VERSION, ONNX_DTYPES, OPSET, Types, value_info
from weightd.weights.mindir.proto import TensorType
from weightd.weights.mindir.values import Tensor

_DISTINCT = frozenset({"Identity", "If"})  # each output of a graph has a node of its own
_MAX_VALUES = 1_000_000
_NAME_LENGTH = MAX_NAME_LENGTH - 32  # room for a number


class Emitter:
    """Collects one model. `taken`: names that only the weights and inputs may have."""

    def __init__(self, taken: Sequence[str]) -> None:
        self._names = set(taken)
        self._nodes: list[onnx.NodeProto] = []
        self._written: dict[tuple[bytes, int], list[str]] = {}
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
        self.initializers: list[onnx.TensorProto] = []
        self._types = Types()

    def introduce(self, tensor: Tensor) -> Tensor:
        """Make the type of an input or weight known."""
        self._types.add(tensor.name, tensor)
        return tensor

    def type_of(self, name: str) -> TensorType | None:
        """What ONNX itself says of a value; None where it cannot tell."""
        return self._types.of(name)

    def name(self, wanted: str) -> str:
        """A name that nothing has yet."""
        base = wanted[:_NAME_LENGTH] or "value"
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}:{count}"
        self._names.add(name)
        return name

    def emit(
        self, op: str, inputs: Sequence[str], scope: str, outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Add a node; the names of its outputs. An attribute that is None is left out. A node that
        stands there already is not written again: two sizes of one tensor are one value."""
        given = {key: value for key, value in attributes.items() if value is not None}
        node = onnx.helper.make_node(op, inputs, [], **given)
        written = (node.SerializeToString(deterministic=True), outputs)
        if op not in _DISTINCT and written in self._written:
            return self._written[written]
        self._count += outputs
        if self._count > _MAX_VALUES:
            raise BadFileError(f"a graph of more than {_MAX_VALUES} values")
        names = [self.name(scope) for _ in range(outputs)]
        node.name = names[0]
        node.output.extend(names)
        self._nodes.append(node)
        self._types.infer(node)
        self._written[written] = names
        return names

    def constant(self, array: Array, scope: str = "constant") -> Tensor:
        """A constant, which any number of nodes may share."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        dtype = dtype_name(array.dtype)
        raw = array.tobytes()
        key = (dtype, array.shape, raw)
        if key not in self._constants:
            name = self.name(scope)
            self._constants[key] = self.introduce(Tensor(name, dtype, array.shape))
            proto = onnx.TensorProto(
                name=name, data_type=ONNX_DTYPES[dtype], dims=array.shape, raw_data=raw
            )
            self.initializers.append(proto)
            self._types.add_constant(proto)
        return self._constants[key]

    @contextmanager
    def branch(self, name: str, outputs: list[Tensor]) -> Iterator[onnx.GraphProto]:
        """A graph of its own for what is emitted meanwhile. `outputs` is read at the end."""
        outer, self._nodes = self._nodes, []
        written, self._written = self._written, dict(self._written)
        graph = onnx.GraphProto(name=name)
        try:
            yield graph
            graph.node.extend(self._nodes)
            graph.output.extend(value_info(output.name, output) for output in outputs)
        finally:
            self._nodes = outer
            self._written = written

    def model(
        self,
        name: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        notes: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The whole, but for the weights' initializers."""
        graph = onnx.GraphProto(
            name=name,
            node=self._nodes,
            initializer=self.initializers,
            input=[value_info(tensor.name, tensor) for tensor in inputs],
            output=[value_info(tensor.name, tensor) for tensor in outputs],
        )
        model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="weightd", graph=graph)
        model.opset_import.add(version=OPSET)
        for key, value in notes.items():
            model.metadata_props.add(key=key, value=value)
        return model
