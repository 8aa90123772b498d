"""Where a MindIR file keeps its parameters, and all the rest of it as bytes. Framing only.

    ModelProto.graph = 7 -> GraphProto.parameter = 3 -> TensorProto.raw_data = 9

The parameters are found, not read: a file of gigabytes costs what its nodes cost.
"""

from typing import NamedTuple

from weightd.errors import BadFileError
from weightd.weights.dtypes import MAX_TENSORS
from weightd.weights.file import InputFile
from weightd.weights.rest import MAX_MESSAGE_NBYTES, Rest
from weightd.weights.wire import LENGTH, Field, Wire, length_field

GRAPH = 7
PARAMETER = 3
RAW_DATA = 9

_MAX_HEAD_NBYTES = 1024 * 1024


class FoundParameter(NamedTuple):
    """A parameter's TensorProto without its bytes, and the field that has them, if there is one."""

    head: bytes
    raw: Field | None


class MindirScan(NamedTuple):
    """A ModelProto without its main graph's parameters, serialized, and these."""

    model: bytes
    parameters: list[FoundParameter]


def scan_mindir(file: InputFile) -> MindirScan:
    """Find the main graph and its parameters; BadFileError when the framing is not MindIR's."""
    wire = Wire(file)
    rest = Rest(file, MAX_MESSAGE_NBYTES, "the model")
    graph: Field | None = None
    for field in wire.fields(0, file.nbytes, "the model"):
        if field.number != GRAPH or field.kind != LENGTH:
            rest.add(field)
        elif graph is None:
            graph = field
        else:
            raise BadFileError(f"{file.name} has two graphs")
    if graph is None:
        raise BadFileError(f"{file.name} is a MindIR file without a graph")
    graph_rest, parameters = _scan_graph(file, wire, graph)
    return MindirScan(rest.read() + length_field(GRAPH, graph_rest), parameters)


def _scan_graph(file: InputFile, wire: Wire, graph: Field) -> tuple[bytes, list[FoundParameter]]:
    rest = Rest(file, MAX_MESSAGE_NBYTES, "the graph")
    parameters: list[Field] = []
    for field in wire.fields(graph.offset, graph.end, "the graph"):
        if field.number == PARAMETER and field.kind == LENGTH:
            if len(parameters) == MAX_TENSORS:
                raise BadFileError(f"{file.name} has more than {MAX_TENSORS} parameters")
            parameters.append(field)
        else:
            rest.add(field)
    return rest.read(), [_scan_parameter(file, wire, field) for field in parameters]


def _scan_parameter(file: InputFile, wire: Wire, whole: Field) -> FoundParameter:
    head = Rest(file, _MAX_HEAD_NBYTES, "a parameter")
    raw: Field | None = None
    for field in wire.fields(whole.offset, whole.end, "a parameter"):
        if field.number != RAW_DATA or field.kind != LENGTH:
            head.add(field)
        elif raw is None:
            raw = field
        else:
            raise BadFileError(f"{file.name}: a parameter has two raw_data fields")
    return FoundParameter(head.read(), raw)
