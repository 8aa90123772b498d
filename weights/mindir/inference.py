"""The types of ONNX values, as ONNX itself infers them, node by node.

What MindSpore declares is mostly enough. Where sizes are open it can lose even the rank, and then
its graph asks for the rank while it runs. ONNX knows it still, so that such questions are settled
while the graph is translated.
"""

import onnx
from onnx import shape_inference

from weightd.weights.mindir.proto import TensorType
from weightd.weights.mindir.values import Tensor
from weightd.weights.onnx_graph import DTYPES

OPSET = 20
IR_VERSION = 9
ONNX_DTYPES = {name: number for number, name in DTYPES.items()}

_OPSETS = [onnx.helper.make_opsetid("", OPSET)]
_MAX_DATA = 64  # elements of a constant that may be a shape, axes or pads
_HAS_GRAPHS = frozenset({"If"})


class Types:
    """The types of all values of a graph that grows, as far as they can be known."""

    def __init__(self) -> None:
        self._types: dict[str, onnx.TypeProto] = {}
        self._data: dict[str, onnx.TensorProto] = {}

    def add(self, name: str, tensor: Tensor | TensorType) -> None:
        self._types[name] = value_info(name, tensor).type

    def add_constant(self, proto: onnx.TensorProto) -> None:
        """The numbers too, if they are few: other types may follow from them."""
        if len(proto.dims) <= 1 and sum(proto.dims) <= _MAX_DATA:
            self._data[proto.name] = proto

    def infer(self, node: onnx.NodeProto) -> None:
        """Add what a node gives. Nothing is said of one whose inputs are unknown, or that ONNX does
        not take: the whole graph is checked at the end."""
        names = [name for name in node.input if name]
        if node.op_type in _HAS_GRAPHS or not all(name in self._types for name in names):
            return
        try:
            found = shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, OPSET),
                node,
                {name: self._types[name] for name in names},
                {name: self._data[name] for name in names if name in self._data},
                opset_imports=_OPSETS,
                ir_version=IR_VERSION,
            )
        except (
            onnx.checker.ValidationError,
            shape_inference.InferenceError,
            ValueError,
            RuntimeError,
        ):
            return
        self._types.update(found)

    def of(self, name: str) -> TensorType | None:
        found = self._types.get(name)
        return None if found is None else tensor_type(found)


def tensor_type(type_: onnx.TypeProto) -> TensorType | None:
    """ONNX's type of a value; None for what is no tensor, or of no dtype that is known."""
    tensor = type_.tensor_type
    if tensor.elem_type not in DTYPES:
        return None
    if not tensor.HasField("shape"):
        return TensorType(DTYPES[tensor.elem_type], None)
    sizes = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorType(DTYPES[tensor.elem_type], tuple(sizes))


def value_info(name: str, type_: Tensor | TensorType) -> onnx.ValueInfoProto:
    """What ONNX calls the declaration of a value. Open sizes have no name."""
    shape = None if type_.shape is None else [None if dim < 0 else dim for dim in type_.shape]
    return onnx.helper.make_tensor_value_info(name, ONNX_DTYPES[type_.dtype], shape)


def narrowed_down(declared: TensorType, found: TensorType | None) -> TensorType:
    """The declared type, with the sizes that are open there and were found."""
    if found is None or found.shape is None:
        return declared
    if declared.shape is None:
        return TensorType(declared.dtype, found.shape)
    if len(declared.shape) != len(found.shape):
        return declared  # one of them is wrong, which the check at the end says
    pairs = zip(declared.shape, found.shape, strict=True)
    return TensorType(declared.dtype, tuple(b if a < 0 else a for a, b in pairs))
