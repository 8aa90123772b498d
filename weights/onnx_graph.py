"""What the rest of an ONNX model says: its ports, and that nothing in it reads other files.

Works on the parsed skeleton, which holds no weights of the main graph.
"""

from collections.abc import Collection, Iterable, Iterator

import onnx

# protobuf's types are a package of their own, types-protobuf; either way will do.
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from weightd.errors import BadFileError, UnsupportedModelError
from weightd.weights.about import Said
from weightd.weights.dtypes import name_fault, tensor_fault
from weightd.weights.entries import Port

# onnx.TensorProto.DataType; the numbers are the format's, so that any onnx release will do.
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    24: "float8_e8m0fnu",
}
STRING = 8
PACKED_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}  # UINT4, INT4, FLOAT4E2M1, UINT2, INT2


def parse_model(raw: bytes, file_name: str) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(raw)
    except (DecodeError, ValueError) as error:
        raise BadFileError(f"{file_name} is not a valid ONNX model: {error}") from error
    # MindSpore's operators in ONNX's messages: of no operator set.
    if model.producer_name == "MindSpore" and not model.opset_import:
        raise UnsupportedModelError(
            f"{file_name} is MindIR of MindSpore 1.0 or older, which is not read; export the "
            "network again with a newer MindSpore, as MindIR or as ONNX, or load its checkpoint"
        )
    return model


def parse_tensor(raw: bytes, of: str) -> onnx.TensorProto:
    try:
        tensor: onnx.TensorProto = onnx.TensorProto.FromString(raw)
    except (DecodeError, ValueError) as error:
        raise BadFileError(f"{of} is not a valid tensor: {error}") from error
    return tensor


def text_of(value: object, what: str) -> str:
    """A text field. protobuf gives bytes, against its own types, for what is not UTF-8."""
    if not isinstance(value, str):
        raise BadFileError(f"{what} is not valid UTF-8: {value!r:.80}")
    return value


def ports_of(
    values: Iterable[onnx.ValueInfoProto],
    *,
    without: Collection[str] = (),
    what: str,
    is_input: bool,
) -> tuple[Port, ...]:
    """The graph's inputs or outputs; `without` are initializers that old models list as inputs.
    An output may leave its shape open, an input may not."""
    ports = [_port(value, what, is_input=is_input) for value in values if value.name not in without]
    if len({port.name for port in ports}) < len(ports):
        raise BadFileError(f"{what}: two of the same name")
    return tuple(ports)


def _port(value: onnx.ValueInfoProto, what: str, *, is_input: bool) -> Port:
    name = text_of(value.name, f"{what}: a name")
    of = f"{what} {name[:64]!r}"
    if not value.type.HasField("tensor_type"):
        raise BadFileError(f"{of} is not a tensor")
    dtype = DTYPES.get(value.type.tensor_type.elem_type, "")
    if not dtype:
        raise BadFileError(f"{of} has the ONNX dtype {value.type.tensor_type.elem_type}")
    if is_input and not value.type.tensor_type.HasField("shape"):
        raise BadFileError(
            f"{of} declares no shape; give it one when the model is exported, open dimensions "
            "as names"
        )
    shape = tuple(_dim(dim, of) for dim in value.type.tensor_type.shape.dim)
    fault = name_fault(name) or tensor_fault(dtype, [dim for dim in shape if isinstance(dim, int)])
    if fault:
        raise BadFileError(f"{of} {fault}")
    return Port(name, dtype, shape)


def _dim(dim: onnx.TensorShapeProto.Dimension, of: str) -> int | str | None:
    if dim.HasField("dim_value"):
        # Some exporters write -1 for a dimension that they do not know.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return text_of(dim.dim_param, f"{of}: a dimension") or None


def said_by(model: onnx.ModelProto, file_name: str) -> Said:
    """Who made a model, its notes, and the operators of all its graphs."""
    of = f"{file_name}: its metadata"
    producer = f"{text_of(model.producer_name, of)} {text_of(model.producer_version, of)}".strip()
    versions = [
        f"{text_of(item.domain, of) or 'ai.onnx'} {item.version}" for item in model.opset_import
    ]
    notes = {"opset": ", ".join(versions), "ir_version": str(model.ir_version)}
    notes |= {text_of(n.key, of): text_of(n.value, of) for n in model.metadata_props}
    operators = [text_of(node.op_type, f"{file_name}: an operator") for node in _nodes(model)]
    return Said(producer, notes, operators=operators)


def check_self_contained(model: onnx.ModelProto, file_name: str) -> None:
    """BadFileError when a node's own tensor, in however deep a subgraph, lies in another file."""
    for node in _nodes(model):
        for attribute in node.attribute:
            for tensor in _tensors(attribute):
                if tensor.data_location or tensor.external_data:
                    raise BadFileError(
                        f"{file_name}: a tensor inside node {node.name[:64]!r} ({node.op_type}) "
                        f"has external data; only the main graph's initializers may"
                    )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of the graph, of its functions, and of their branches, however deep."""
    nodes = [*model.graph.node]
    for function in model.functions:
        nodes.extend(function.node)
    while nodes:
        node = nodes.pop()
        yield node
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                nodes.extend(graph.node)


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [*attribute.sparse_tensors]
    if attribute.HasField("sparse_tensor"):
        sparse.append(attribute.sparse_tensor)
    for graph in _graphs(attribute):
        yield from graph.initializer
        sparse.extend(graph.sparse_initializer)
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices
