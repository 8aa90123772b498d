"""onnx_file.py and its parts: every hostile model is refused, and the message says why."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.test_onnx_file import F32, external, model, raw
from tests.test_readers import DATA, open_bytes, read
from weightd.errors import BadFileError
from weightd.weights.entries import Port
from weightd.weights.wire import length_field, varint


def refuse(folder: Path, content: onnx.ModelProto | bytes, message: str) -> None:
    content = content if isinstance(content, bytes) else content.SerializeToString()
    with pytest.raises(BadFileError, match=message):
        open_bytes(folder, content)


# --- more of something than any model has ------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "part", "message"),
    [
        (b"\x08\x0a", length_field(1, b""), "the graph has more than 500000 fields"),
        (b"\x08\x0a", length_field(5, b""), "more than 100000 initializers"),
        (b"\x0a\x031.1\x12\x09MindSpore", length_field(1, b""), "more than 500000 fields"),
    ],
    ids=["nodes", "initializers", "nodes of MindIR"],
)
def test_a_graph_of_empty_parts_is_refused_before_it_takes_memory(
    tmp_path: Path, beginning: bytes, part: bytes, message: str
) -> None:
    raw = beginning + length_field(7, part * 2_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(tmp_path, raw, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


# --- hostile initializers -----------------------------------------------------------------


def changed(change: Callable[[onnx.TensorProto], object]) -> onnx.TensorProto:
    tensor = raw("w", F32)
    change(tensor)
    return tensor


def typed(dims: list[int], numbers: list[float]) -> onnx.TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, float_data=numbers)


TENSORS: dict[str, tuple[onnx.TensorProto, str]] = {
    "short raw data": (
        changed(lambda t: setattr(t, "raw_data", bytes(23))),
        r"'w' has 23 bytes of raw_data; its shape \[2, 3\] and dtype need 24",
    ),
    "long raw data": (changed(lambda t: setattr(t, "raw_data", bytes(25))), "25 bytes"),
    "no data": (changed(lambda t: t.ClearField("raw_data")), "6 elements .* 0 bytes of data"),
    "negative": (changed(lambda t: t.dims.append(-1)), "negative dimension"),
    "overflow": (changed(lambda t: t.dims.extend([2**62, 2**62])), "overflow 64 bits"),
    "hidden overflow": (changed(lambda t: t.dims.extend([0, 2**62])), "overflow 64 bits"),
    "many dimensions": (changed(lambda t: t.dims.extend([1] * 64)), "66 dimensions"),
    "no name": (changed(lambda t: setattr(t, "name", "")), "empty name"),
    "long name": (changed(lambda t: setattr(t, "name", "n" * 1025)), "1025 characters"),
    "no dtype": (changed(lambda t: t.ClearField("data_type")), "unknown ONNX dtype 0"),
    "unknown dtype": (changed(lambda t: setattr(t, "data_type", 99)), "unknown ONNX dtype 99"),
    "segment": (changed(lambda t: setattr(t.segment, "begin", 1)), "one segment of a tensor"),
    "strings": (
        TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"]),
        "tensor of strings",
    ),
    "huge shape": (typed([2**40], [1.0]), "1099511627776 elements .* 4 bytes of data"),
    "large head": (changed(lambda t: setattr(t, "doc_string", "d" * 2**20)), "too large"),
    "packed of another size": (
        TensorProto(name="w", data_type=TensorProto.INT4, dims=[9], raw_data=b"1234"),
        "4 bytes of raw_data; .* need 5",
    ),
    "both": (
        changed(lambda t: setattr(t, "data_location", TensorProto.EXTERNAL)),
        "both external data and its own",
    ),
}


@pytest.mark.parametrize("attack", TENSORS)
def test_a_bad_initializer_is_refused_and_says_why(tmp_path: Path, attack: str) -> None:
    tensor, message = TENSORS[attack]
    refuse(tmp_path, model(tensor), message)


def test_typed_data_of_another_length_is_refused_when_it_is_read(tmp_path: Path) -> None:
    content = model(typed([3], [1.0])).SerializeToString()
    with open_bytes(tmp_path, content) as source, pytest.raises(BadFileError, match="has 1 elem"):
        read(source, "w")


def test_two_initializers_of_one_name_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, model(raw("w", F32), raw("w", F32)), "'w' occurs twice")


def test_two_raw_data_fields_are_refused(tmp_path: Path) -> None:
    tensor = raw("w", F32).SerializeToString() + length_field(9, F32.tobytes())
    refuse(tmp_path, with_initializer(tensor), "two raw_data fields")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    tensor = raw("name", F32).SerializeToString().replace(b"name", b"\xff\xfe\xfd\xfc")
    refuse(tmp_path, with_initializer(tensor), "not valid UTF-8")


def test_sparse_initializers_are_refused(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(raw("v", F32[0]), raw("i", np.arange(3)), [9])
    refuse(tmp_path, model(sparse_initializer=[sparse]), "sparse initializers")


# --- hostile graphs -----------------------------------------------------------------------


def with_initializer(tensor: bytes) -> bytes:
    graph = model().graph.SerializeToString() + length_field(5, tensor)
    return b"\x08\x0a" + length_field(7, graph)


def branch(*initializers: onnx.TensorProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    node = helper.make_node("Identity", ["w"], ["b"])
    return helper.make_graph([node], "branch", [], [output], list(initializers))


def if_node(graph: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["x"], ["y"], name="choice", then_branch=graph, else_branch=graph)


def test_a_subgraphs_own_weights_stay_where_they_are(tmp_path: Path) -> None:
    content = model(nodes=[if_node(branch(raw("w", F32)))])
    with open_bytes(tmp_path, content.SerializeToString()) as source:
        assert source.graph is not None
        assert onnx.ModelProto.FromString(source.graph) == content
        assert not source.tensors


SECRET = external("w", "/etc/passwd")
SPARSE = onnx.SparseTensorProto(values=SECRET, dims=[9])
INSIDE: dict[str, onnx.NodeProto] = {
    "subgraph": if_node(branch(SECRET)),
    "deeper subgraph": if_node(helper.make_graph([if_node(branch(SECRET))], "outer", [], [])),
    "constant": helper.make_node("Constant", [], ["y"], value=SECRET),
    "list of tensors": helper.make_node("F", [], ["y"], value=[SECRET]),
    "sparse constant": helper.make_node("Constant", [], ["y"], sparse_value=SPARSE),
    "keys alone": helper.make_node("Constant", [], ["y"], value=raw("w", F32)),
}
INSIDE["keys alone"].attribute[0].t.external_data.add(key="prepacked_0", value="w|0|9")


@pytest.mark.parametrize("place", INSIDE)
def test_external_data_inside_a_node_is_refused(tmp_path: Path, place: str) -> None:
    refuse(tmp_path, model(nodes=[INSIDE[place]]), "a tensor inside node .* has external data")


def test_external_data_inside_a_function_is_refused(tmp_path: Path) -> None:
    whole = model()
    opset = [helper.make_opsetid("", 21)]
    whole.functions.append(helper.make_function("f", "F", [], ["y"], [INSIDE["constant"]], opset))
    refuse(tmp_path, whole, "a tensor inside node")


def nested(depth: int) -> bytes:
    """A graph in a node in a graph ...: NodeProto.attribute = 5, AttributeProto.g = 6."""
    graph = b""
    for _ in range(depth):
        graph = length_field(1, length_field(5, length_field(6, graph)))
    return b"\x08\x0a" + length_field(7, graph)


LENET = (DATA / "lenet5.onnx").read_bytes()
WIRES: dict[str, tuple[bytes, str]] = {
    "no graph": (b"\x08\x0a" + length_field(2, b"producer"), "no format that is known"),
    "two graphs": (b"\x08\x0a" + length_field(7, b"") * 2, "has two graphs"),
    "cut off in the graph": (LENET[: len(LENET) // 2], "field 7 of the model is cut off"),
    "cut off early": (LENET[:5], "cut off|no format"),
    "endless number": (b"\x08\x0a" + length_field(7, b"\x80" * 11), "endless number"),
    "group": (b"\x08\x0a" + length_field(7, b"\x0b"), "wire type 3"),
    "field past its message": (b"\x08\x0a" + length_field(7, b"\x0a\x05ab"), "is cut off"),
    "length of 2**63": (b"\x08\x0a" + b"\x3a" + varint(2**63), "field 7 of the model is cut off"),
    "tag alone": (b"\x08\x0a" + length_field(7, b"\x0a"), "is cut off at byte"),
    "nonsense node": (b"\x08\x0a" + length_field(7, length_field(1, b"\xff\xff")), "not a valid"),
    "nonsense tensor": (with_initializer(b"\x0a\x01\xff"), "not a valid tensor"),
    "deep": (nested(5000), "not a valid ONNX model"),
}


@pytest.mark.parametrize("attack", WIRES)
def test_a_broken_wire_is_refused_and_says_where(tmp_path: Path, attack: str) -> None:
    content, message = WIRES[attack]
    refuse(tmp_path, content, message)


def test_every_truncation_of_a_model_is_a_typed_error(tmp_path: Path) -> None:
    whole = with_initializer(typed([3], [1, 2, 3]).SerializeToString())
    for end in range(len(whole)):
        with pytest.raises(BadFileError):
            open_bytes(tmp_path, whole[:end])


# --- ports --------------------------------------------------------------------------------


def with_port(**fields: Any) -> onnx.ModelProto:
    whole = model()
    whole.graph.input.append(onnx.ValueInfoProto(name="z", **fields))
    return whole


STRINGS = helper.make_tensor_type_proto(TensorProto.STRING, [1])
PORTS: dict[str, tuple[onnx.ModelProto, str]] = {
    "strings": (with_port(type=STRINGS), "input 'z' has the ONNX dtype 8"),
    "sequence": (with_port(type=helper.make_sequence_type_proto(STRINGS)), "'z' is not a tensor"),
    "no type": (with_port(), "'z' is not a tensor"),
    "twice": (with_port(), "two of the same name"),
}
PORTS["twice"][0].graph.input[1].CopyFrom(PORTS["twice"][0].graph.input[0])


@pytest.mark.parametrize("attack", PORTS)
def test_a_port_that_cannot_be_served_is_refused(tmp_path: Path, attack: str) -> None:
    refuse(tmp_path, *PORTS[attack])


def test_a_dimension_of_minus_one_is_an_unknown_one(tmp_path: Path) -> None:
    whole = with_port(type=helper.make_tensor_type_proto(TensorProto.BFLOAT16, [-1, 2]))
    with open_bytes(tmp_path, whole.SerializeToString()) as source:
        assert source.inputs[1] == Port("z", np.dtype(ml_dtypes.bfloat16).name, (None, 2))
