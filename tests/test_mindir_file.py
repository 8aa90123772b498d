"""MindIR files that break a rule, made by hand, and the forms that real ones rarely have."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mindir import PrivateSession, opened
from weightd.errors import BadFileError, UnsupportedModelError
from weightd.weights.mindir.schema import _classes
from weightd.weights.mindir.source import MindirSource

SPLIT = Path(__file__).parent / "data" / "split"
CASES = Path(__file__).parent / "data" / "mindir"
REAL = CASES / "flow" / "several_outputs.mindir"

FLOAT, INT64, TENSORS, TUPLE = 1, 7, 19, 20


def model_of(raw: bytes = b"") -> Any:
    return _classes()["ModelProto"].FromString(raw)


def scaled(nbytes: int = 12) -> Any:
    """y = x * w, of three numbers."""
    model = model_of()
    model.ir_version, model.producer_name = b"1.1", b"MindSpore"
    model.model_version, model.little_endian = b"2.10.0", True
    model.primitives.add(name=b"Mul:1", op_type=b"Mul")
    graph = model.graph
    graph.name = b"net"
    graph.input.add(name=b"net:x").tensor.add(dims=[3], data_type=FLOAT)
    graph.parameter.add(
        name=b"net:w", ref_key=b"layer.w", dims=[3], data_type=FLOAT, raw_data=bytes(nbytes)
    )
    node = graph.node.add(input=[b"net:x", b"net:w"], output=[b"net:y"], op_type=b"REF::Mul:1")
    node.attribute.add(name=b"shape", type=TENSORS).tensors.add(dims=[3], data_type=FLOAT)
    graph.output.add(name=b"net:y").tensor.add(dims=[3], data_type=FLOAT)
    return model


def written(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.mindir"


def test_a_parameter_has_its_stable_name_and_the_input_its_argument(path: Path) -> None:
    with opened(written(path, scaled())) as source:
        assert isinstance(source, MindirSource)
        assert source.tensors.keys() == {"layer.w"}
        assert [port.name for port in source.inputs] == ["x"]
        assert source.constants == ()
        session = PrivateSession(source)
    assert session.run([np.ones(3, np.float32)])[0].tolist() == [0, 0, 0]


def test_a_parameter_without_a_stable_name_has_the_graphs(path: Path) -> None:
    model = scaled()
    model.graph.parameter[0].ClearField("ref_key")
    with opened(written(path, model)) as source:
        assert source.tensors.keys() == {"w"}


def test_an_input_that_is_called_as_a_weight_gets_another_name(path: Path) -> None:
    model = scaled()
    model.graph.parameter[0].ref_key = b"x"
    with opened(written(path, model)) as source:
        assert [port.name for port in source.inputs] == ["x:2"]


def test_the_users_notes_are_kept(path: Path) -> None:
    model = scaled()
    model.user_info.add(key=b"author", value="Ödön".encode())
    with opened(written(path, model)) as source:
        assert dict(source.said().notes) == {"author": "Ödön"}


# --- external data -----------------------------------------------------------------------


def external(location: str, offset: int = 64, length: int = 12) -> Any:
    model = scaled()
    parameter = model.graph.parameter[0]
    parameter.ClearField("raw_data")
    parameter.external_data.location = location.encode()
    parameter.external_data.offset, parameter.external_data.length = offset, length
    return model


def test_a_real_file_in_two_parts_answers_as_mindspore_does() -> None:
    with np.load(SPLIT / "net.npz") as kept, opened(SPLIT / "net_graph.mindir") as source:
        assert source.tensors.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
        (found,) = PrivateSession(source).run([kept["x"]])
        np.testing.assert_allclose(found, kept["y"], rtol=0, atol=1e-6)


def test_external_data_is_read_from_beside_the_file(path: Path) -> None:
    folder = path.parent / "net_variables"
    folder.mkdir()
    (folder / "data_0").write_bytes(bytes(64) + np.array([1, 2, 3], np.float32).tobytes())
    with opened(written(path, external("net_variables/data_0"))) as source:
        raw = bytearray(12)
        source.read_into("layer.w", memoryview(raw))
        assert np.frombuffer(raw, np.float32).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "link", "", "missing", "sub/../../secret"]
)
def test_external_data_never_leaves_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(99))
    (tmp_path / "models" / "sub").mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(BadFileError, match=r"layer\.w.*external"):
        opened(written(tmp_path / "models" / "net.mindir", external(location)))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [(64, 13, "13 bytes of external data"), (90, 12, "past the end"), (-1, 12, "past the end")],
)
def test_external_data_that_is_not_there_is_refused(
    path: Path, offset: int, length: int, message: str
) -> None:
    (path.parent / "data_0").write_bytes(bytes(99))
    with pytest.raises(BadFileError, match=message):
        opened(written(path, external("data_0", offset, length)))


# --- broken ------------------------------------------------------------------------------


def parameter_of(model: Any) -> Any:
    return model.graph.parameter[0]


CHANGES: dict[str, Callable[[Any], object]] = {
    "short data": lambda m: setattr(parameter_of(m), "raw_data", bytes(11)),
    "no data": lambda m: parameter_of(m).ClearField("raw_data"),
    "negative dims": lambda m: parameter_of(m).dims.__setitem__(0, -3),
    "huge dims": lambda m: parameter_of(m).dims.extend([2**40, 2**40]),
    "string dtype": lambda m: setattr(parameter_of(m), "data_type", 8),
    "compressed": lambda m: setattr(parameter_of(m), "compression_type", 4),
    "quantised": lambda m: parameter_of(m).quant_params.append(b""),
    "typed data": lambda m: parameter_of(m).float_data.append(1),
    "twice": lambda m: m.graph.parameter.add().CopyFrom(parameter_of(m)),
    "big-endian": lambda m: setattr(m, "little_endian", False),
    "hash table": lambda m: m.graph.map_parameter.append(b""),
    "unknown input": lambda m: m.graph.node[0].input.__setitem__(0, b"net:z"),
    "two outputs": lambda m: m.graph.node[0].output.append(b"net:v"),
    "no output": lambda m: m.graph.ClearField("output"),
    "no such primitive": lambda m: setattr(m.graph.node[0], "op_type", b"REF::Nothing:9"),
    "not UTF-8": lambda m: setattr(m.graph.node[0], "domain", b"\xff\xfe"),
}
BROKEN = {
    "short data": "11 bytes of data",
    "no data": "0 bytes of data",
    "negative dims": "negative dimension",
    "huge dims": "overflow 64 bits",
    "string dtype": "MindIR dtype 8",
    "compressed": "compressed or quantised",
    "quantised": "compressed or quantised",
    "typed data": "typed fields",
    "twice": "'layer.w' occurs twice",
    "big-endian": "big-endian",
    "hash table": "hash table parameters",
    "unknown input": "'net:z' before anything gives it",
    "two outputs": "2 outputs, not one",
    "no output": "has no output",
    "no such primitive": "'Nothing:9' before anything gives it",
    "not UTF-8": "not valid UTF-8",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_and_says_what(path: Path, kind: str) -> None:
    model = scaled()
    CHANGES[kind](model)
    with pytest.raises(BadFileError, match=BROKEN[kind]):
        opened(written(path, model))


# --- what is declared --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "dtype", "message"),
    [
        ([4], FLOAT, r"gives the shape \[3\]; the file says \[4\]"),
        ([3, 1], FLOAT, r"gives the shape \[3\]; the file says \[3, 1\]"),
    ],
)
def test_a_node_that_is_not_what_the_file_declares_never_runs(
    path: Path, dims: list[int], dtype: int, message: str
) -> None:
    model = scaled()
    declared = model.graph.node[0].attribute[0].tensors[0]
    declared.dims[:], declared.data_type = dims, dtype
    with pytest.raises(UnsupportedModelError, match=message):
        opened(written(path, model))


def test_an_unknown_operator_is_named_with_its_place_and_the_way_out(path: Path) -> None:
    model = scaled()
    model.primitives[0].op_type = b"Frobnicate"
    model.graph.node[0].domain = b"Default/layer1/Frobnicate-op0"
    message = (
        r"net\.mindir \(MindSpore 2\.10\.0\) cannot be translated: Frobnicate at "
        r"Default/layer1/Frobnicate-op0: this operator is not translated; have MindSpore export it "
        r"as ONNX .* or load its weights alone \(--weights-only\)"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        opened(written(path, model))
    with opened(path, weights_only=True) as source:
        assert source.graph is None
        assert source.tensors.keys() == {"layer.w"}


def test_a_graph_that_calls_itself_is_refused_and_does_not_run_away(path: Path) -> None:
    model = scaled()
    model.functions.add().CopyFrom(model.graph)
    function = model.functions[0]
    function.name = b"again"
    del function.parameter[:]
    for graph in (model.graph, function):
        graph.node[0].op_type = b"REF::again"
        graph.node[0].input[:] = [b"net:x"]
    with pytest.raises(UnsupportedModelError, match="calls itself"):
        opened(written(path, model))


def test_functions_that_call_each_other_do_not_grow_without_end(path: Path) -> None:
    """Forty functions, each of which calls the next one twice: 2^40 nodes if nobody counts."""
    model = scaled()
    model.graph.node[0].op_type = b"REF::f0"
    model.graph.node[0].input[:] = [b"net:x"]
    for number in range(40):
        function = model.functions.add()
        function.name = f"f{number}".encode()
        function.input.add(name=b"a").tensor.add(dims=[3], data_type=FLOAT)
        for name, source in ((b"b", b"a"), (b"c", b"b")):
            is_last = number == 39
            node = function.node.add(
                input=[source, source] if is_last else [source],
                output=[name],
                op_type=b"REF::Mul:1" if is_last else f"REF::f{number + 1}".encode(),
            )
            node.attribute.add(name=b"shape", type=TENSORS).tensors.add(dims=[3], data_type=FLOAT)
        function.output.add(name=b"c")
    with pytest.raises(UnsupportedModelError, match="call each other so often"):
        opened(written(path, model))


def test_a_real_file_that_is_cut_off_anywhere_is_refused(path: Path) -> None:
    raw = REAL.read_bytes()
    for nbytes in range(0, len(raw) - 1, 97):
        path.write_bytes(raw[:nbytes])
        with pytest.raises((BadFileError, UnsupportedModelError)):
            opened(path)


def test_the_file_may_be_closed_by_whoever_opened_it() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with opened(REAL):
        pass
    assert set(os.listdir("/proc/self/fd")) == before
