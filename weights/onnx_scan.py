"""Where an ONNX file keeps its weights, and all the rest of it as bytes. Framing only.

    ModelProto.graph = 7 -> GraphProto.initializer = 5 -> TensorProto.raw_data = 9

The weights are found, not read: a model of gigabytes costs what its nodes cost. Imports no onnx.
"""

from typing import NamedTuple

from weightd.errors import BadFileError
from weightd.weights.dtypes import MAX_TENSORS
from weightd.weights.file import InputFile
from weightd.weights.rest import MAX_MESSAGE_NBYTES, Rest
from weightd.weights.wire import LENGTH, Field, Wire, length_field

GRAPH = 7
TRAINING_INFO = 20
INITIALIZER = 5
SPARSE_INITIALIZER = 15
RAW_DATA = 9
TYPED_DATA = frozenset({4, 5, 6, 7, 10, 11})  # float, int32, string, int64, double, uint64

MAX_TENSOR_HEAD_NBYTES = 1024 * 1024


class TensorParts(NamedTuple):
    """One TensorProto. head: all of it but its data; raw: the field that is its data, if any."""

    whole: Field
    head: bytes
    raw: Field | None
    typed_nbytes: int


class ModelScan(NamedTuple):
    """A model without its main graph's initializers, and where these are."""

    model_rest: bytes
    graph_rest: bytes
    initializers: list[Field]

    def skeleton(self, initializers: list[bytes]) -> bytes:
        """The serialized model with other initializers."""
        tensors = b"".join(length_field(INITIALIZER, tensor) for tensor in initializers)
        return self.model_rest + length_field(GRAPH, self.graph_rest + tensors)


def scan_model(file: InputFile, wire: Wire) -> ModelScan:
    """Find the graph and its initializers; BadFileError when the framing is not ONNX's."""
    rest = Rest(file, MAX_MESSAGE_NBYTES, "the model")
    graph: Field | None = None
    for field in wire.fields(0, file.nbytes, "the model"):
        if field.number == GRAPH and field.kind == LENGTH:
            if graph is not None:
                raise BadFileError(f"{file.name} has two graphs")
            graph = field
        elif field.number != TRAINING_INFO:  # it is no part of inference
            rest.add(field)
    if graph is None:
        raise BadFileError(f"{file.name} is an ONNX model without a graph")
    return ModelScan(rest.read(), *_scan_graph(file, wire, graph))


def _scan_graph(file: InputFile, wire: Wire, graph: Field) -> tuple[bytes, list[Field]]:
    rest = Rest(file, MAX_MESSAGE_NBYTES, "the graph")
    initializers: list[Field] = []
    for field in wire.fields(graph.offset, graph.end, "the graph"):
        if field.number == SPARSE_INITIALIZER:
            raise BadFileError(
                f"{file.name} has sparse initializers, which weightd cannot share; "
                "export the model with dense ones"
            )
        if field.number == INITIALIZER and field.kind == LENGTH:
            if len(initializers) == MAX_TENSORS:
                raise BadFileError(f"{file.name} has more than {MAX_TENSORS} initializers")
            initializers.append(field)
        else:
            rest.add(field)
    return rest.read(), initializers


def scan_tensor(file: InputFile, wire: Wire, whole: Field) -> TensorParts:
    """Take an initializer apart, without reading its data."""
    head = Rest(file, MAX_TENSOR_HEAD_NBYTES, "an initializer")
    raw: Field | None = None
    typed_nbytes = 0
    for field in wire.fields(whole.offset, whole.end, "an initializer"):
        if field.number == RAW_DATA and field.kind == LENGTH:
            if raw is not None:
                raise BadFileError(f"{file.name}: an initializer has two raw_data fields")
            raw = field
        elif field.number in TYPED_DATA:
            typed_nbytes += field.nbytes
        else:
            head.add(field)
    return TensorParts(whole, head.read(), raw, typed_nbytes)
