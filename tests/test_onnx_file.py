"""onnx_file.py: weights read in place or from external files, and a skeleton that runs.

raw(), external() and model() serve test_onnx_abuse.py, too.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.test_readers import DATA, open_bytes, open_path, read
from weightd.errors import BadFileError
from weightd.weights.entries import Port
from weightd.weights.onnx_graph import DTYPES, PACKED_BITS

CPU = ["CPUExecutionProvider"]
F32 = np.arange(6, dtype=np.float32).reshape(2, 3)


def raw(name: str, array: np.ndarray[Any, Any]) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def external(
    name: str, location: str, *, shape: tuple[int, ...] = (2, 3), **keys: Any
) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **keys}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(*initializers: onnx.TensorProto, nodes: Any = (), **options: Any) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], list(initializers), **options)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def skeleton_of(graph: bytes | None) -> dict[str, onnx.TensorProto]:
    assert graph is not None
    return {tensor.name: tensor for tensor in onnx.ModelProto.FromString(graph).graph.initializer}


def keys_of(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def test_a_real_model_gives_its_weights_and_ports() -> None:
    whole = onnx.load(DATA / "lenet5.onnx")
    with open_path(DATA / "lenet5.onnx") as source:
        assert source.inputs == (Port("x", "float32", (1, 1, 32, 32)),)
        assert [(port.dtype, port.shape) for port in source.outputs] == [("float32", (1, 10))]
        assert source.constants == ()
        assert list(source.tensors) == [tensor.name for tensor in whole.graph.initializer]
        for tensor in whole.graph.initializer:
            assert read(source, tensor.name) == numpy_helper.to_array(tensor).tobytes()


def test_the_skeleton_with_its_weights_put_back_answers_as_the_model_does() -> None:
    image = np.random.default_rng(0).random((1, 1, 32, 32), np.float32)
    with open_path(DATA / "lenet5.onnx") as source:
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(
                np.frombuffer(read(source, name), spec.dtype).reshape(spec.shape)
            )
            for name, spec in source.tensors.items()
        }
        options = onnxruntime.SessionOptions()
        options.add_external_initializers(list(values), list(values.values()))
        put_back = onnxruntime.InferenceSession(source.graph, options, CPU)
        answer = put_back.run(None, {"x": image})[0]
    whole = onnxruntime.InferenceSession(DATA / "lenet5.onnx", providers=CPU)
    assert np.array_equal(answer, whole.run(None, {"x": image})[0])


def test_the_skeleton_refers_to_the_weights_and_holds_none(tmp_path: Path) -> None:
    large = np.ones((500, 1000), np.float32)
    with open_bytes(tmp_path, model(raw("w", large)).SerializeToString()) as source:
        assert source.graph is not None
        assert len(source.graph) < 1000
        tensor = skeleton_of(source.graph)["w"]
        assert tensor.data_location == TensorProto.EXTERNAL
        assert keys_of(tensor) == {"location": "weights", "offset": "0", "length": "2000000"}
        assert list(tensor.dims) == [500, 1000]


def test_a_model_without_weights_is_fine(tmp_path: Path) -> None:
    with open_bytes(tmp_path, model().SerializeToString()) as source:
        assert not source.tensors
        assert source.inputs == (Port("x", "float32", ("batch", 3)),)
        assert source.outputs == (Port("y", "float32", (None, 3)),)


def test_int64_and_empty_weights_stay_in_the_skeleton_and_may_be_left_out(tmp_path: Path) -> None:
    shape, empty = np.array([-1, 3]), np.zeros((0, 2), np.float32)
    content = model(raw("shape", shape), raw("empty", empty), raw("w", F32)).SerializeToString()
    with open_bytes(tmp_path, content) as source:
        assert source.constants == ("shape", "empty")
        assert list(source.tensors) == ["shape", "empty", "w"]
        inline = skeleton_of(source.graph)
        assert numpy_helper.to_array(inline["shape"]).tolist() == [-1, 3]
        assert numpy_helper.to_array(inline["empty"]).shape == (0, 2)
        assert read(source, "shape") == shape.tobytes()


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_is_read_from_raw_data(tmp_path: Path, code: int) -> None:
    array = np.array([1, 0, 3]).astype(helper.tensor_dtype_to_np_dtype(code))
    with open_bytes(tmp_path, model(raw("w", array)).SerializeToString()) as source:
        assert source.tensors["w"].dtype == DTYPES[code]
        assert read(source, "w") == array.tobytes()


@pytest.mark.parametrize("code", set(DTYPES) - {24})  # onnx itself writes no typed E8M0
def test_every_dtype_is_read_from_typed_fields(tmp_path: Path, code: int) -> None:
    numbers = [1, 0, 1] if DTYPES[code] == "bool" else [1, 0, 3]
    tensor = helper.make_tensor("w", code, [3], numbers)
    assert not tensor.HasField("raw_data")
    with open_bytes(tmp_path, model(tensor).SerializeToString()) as source:
        assert read(source, "w") == numpy_helper.to_array(tensor).tobytes()


def test_negative_small_integers_survive_their_typed_field(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.INT8, [3], [-1, -128, 127])
    with open_bytes(tmp_path, model(tensor).SerializeToString()) as source:
        assert read(source, "w") == bytes([0xFF, 0x80, 0x7F])


def test_the_chunks_of_a_converted_tensor_are_seen(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [6], range(6))
    seen: list[bytes] = []
    with open_bytes(tmp_path, model(tensor).SerializeToString()) as source:
        source.read_into("w", memoryview(bytearray(24)), lambda piece: seen.append(bytes(piece)))
    assert seen == [F32.tobytes()]


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("is_raw", [False, True])
def test_4_bit_weights_stay_in_the_skeleton_and_are_no_tensors(
    tmp_path: Path, code: int, is_raw: bool
) -> None:
    packed = b"\x21\x03" if is_raw else [1, 2, 3]
    tensor = helper.make_tensor("q", code, [3], packed, raw=is_raw)
    with open_bytes(tmp_path, model(tensor, raw("w", F32)).SerializeToString()) as source:
        assert list(source.tensors) == ["w"]
        assert source.constants == ()
        assert numpy_helper.to_array(skeleton_of(source.graph)["q"]).tolist() == [1, 2, 3]


def test_the_packed_dtypes_are_no_tensors() -> None:
    assert not PACKED_BITS.keys() & DTYPES.keys()


def test_nan_weights_are_allowed(tmp_path: Path) -> None:
    with open_bytes(tmp_path, model(raw("w", F32 * np.nan)).SerializeToString()) as source:
        assert np.isnan(np.frombuffer(read(source, "w"), np.float32)).all()


def test_an_old_model_that_lists_its_weights_as_inputs_has_only_the_real_ones(
    tmp_path: Path,
) -> None:
    old = model(raw("w", F32))
    old.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]))
    with open_bytes(tmp_path, old.SerializeToString()) as source:
        assert [port.name for port in source.inputs] == ["x"]


def test_an_input_that_declares_no_shape_is_refused(tmp_path: Path) -> None:
    net = model()
    net.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(BadFileError, match="'x' declares no shape"):
        open_bytes(tmp_path, net.SerializeToString())


def test_functions_metadata_and_constant_nodes_are_kept_and_training_is_not(
    tmp_path: Path,
) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=raw("v", F32))
    whole = model(nodes=[constant, helper.make_node("Identity", ["x"], ["y"])])
    node = helper.make_node("Identity", ["a"], ["b"])
    opset = [helper.make_opsetid("", 21)]
    whole.functions.append(helper.make_function("f", "F", ["a"], ["b"], [node], opset))
    whole.metadata_props.add(key="k", value="v")
    bare = whole.SerializeToString()
    whole.training_info.add().algorithm.name = "sgd"
    with open_bytes(tmp_path, whole.SerializeToString()) as source:
        assert source.graph is not None
        assert onnx.ModelProto.FromString(source.graph) == onnx.ModelProto.FromString(bare)


# --- external data ------------------------------------------------------------------------


def in_folder(folder: Path, *initializers: onnx.TensorProto) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "w.bin").write_bytes(b"head" + F32.tobytes())
    path = folder / "model.onnx"
    path.write_bytes(model(*initializers).SerializeToString())
    return path


def test_external_data_is_read_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "v.bin").write_bytes(F32.tobytes() * 2)
    path = in_folder(
        tmp_path,
        external("w", "data/w.bin", offset=4, length=24),
        external("v", "v.bin"),  # without a length: as much as the shape needs
        external("w2", "data/w.bin", offset=4),
    )
    with open_path(path, folder=tmp_path) as source:
        assert [read(source, name) for name in ("w", "v", "w2")] == [F32.tobytes()] * 3


def test_external_int64_and_4_bit_weights_come_into_the_skeleton(tmp_path: Path) -> None:
    shape = external("shape", "data/w.bin", shape=(3,), offset=4)
    shape.data_type = TensorProto.INT64
    packed = external("q", "data/w.bin", shape=(3,), offset=0, length=2)
    packed.data_type = TensorProto.UINT4
    with open_path(in_folder(tmp_path, shape, packed), folder=tmp_path) as source:
        inline = skeleton_of(source.graph)
        assert inline["shape"].raw_data == F32.tobytes() == read(source, "shape")
        assert inline["q"].raw_data == b"he"
        assert not inline["shape"].external_data
        assert list(source.tensors) == ["shape"]


def test_no_key_of_a_users_external_data_survives(tmp_path: Path) -> None:
    tensor = external("w", "data/w.bin", offset=4, prepacked_0="w|0|999999999", checksum="x")
    inline = helper.make_tensor("n", TensorProto.INT64, [1], [1])
    inline.external_data.add(key="prepacked_0", value="n|0|999999999")
    with open_path(in_folder(tmp_path, tensor, inline), folder=tmp_path) as source:
        assert source.graph is not None
        assert b"prepacked" not in source.graph
        assert keys_of(skeleton_of(source.graph)["w"])["location"] == "weights"


def test_external_data_without_a_folder_says_that_it_needs_one(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=r"initializer 'w' .*'data/w.bin'.* offer its folder"):
        open_path(in_folder(tmp_path, external("w", "data/w.bin")))


def test_a_model_may_have_more_external_files_than_a_process_may_open(tmp_path: Path) -> None:
    tensors = [external(f"w{number}", f"{number}.bin") for number in range(50)]
    for number in range(50):
        (tmp_path / f"{number}.bin").write_bytes(F32.tobytes())
    path = in_folder(tmp_path, *tensors)
    before = len(os.listdir("/proc/self/fd"))
    with open_path(path, folder=tmp_path) as source:
        assert len(os.listdir("/proc/self/fd")) <= before + 3  # model, folder, one file
        assert {read(source, name) for name in source.tensors} == {F32.tobytes()}
    assert len(os.listdir("/proc/self/fd")) == before


LOCATIONS: dict[str, tuple[str, str]] = {
    "above": ("../../etc/passwd", "cannot be opened inside the model's folder"),
    "above and back": ("../{name}/data/w.bin", "cannot be opened inside"),
    "absolute": ("/etc/passwd", "is not a relative path"),
    "empty": ("", "is not a relative path"),
    "zero byte": ("data/w.bin\0.txt", "is not a relative path"),
    "link": ("link", "cannot be opened inside"),
    "link to a folder": ("folder/w.bin", "cannot be opened inside"),
    "missing": ("nothing.bin", "No such file"),
    "memory": ("*/_ORT_MEM_ADDR_/*", "cannot be opened inside"),
    "directory": ("data", "is a directory"),
    "fifo": ("fifo", "not a regular file"),
    "magic link": ("proc/self/exe", "cannot be opened inside"),
}


@pytest.mark.parametrize("attack", LOCATIONS)
def test_a_location_that_leaves_the_folder_or_is_no_file_is_refused(
    tmp_path: Path, attack: str
) -> None:
    location, message = LOCATIONS[attack]
    location = location.format(name=tmp_path.name)
    path = in_folder(tmp_path, external("w", location, offset=4))
    (tmp_path / "link").symlink_to("data/w.bin")
    (tmp_path / "folder").symlink_to("data")
    (tmp_path / "proc").symlink_to("/proc")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadFileError, match=rf"initializer 'w'.*{message}") as caught:
        open_path(path, folder=tmp_path)
    assert repr(location) in str(caught.value)


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "past the end": ({"offset": 5}, "'w' ends at byte 29, past the end of the file"),
    "far": ({"offset": 2**62}, "past the end"),
    "negative": ({"offset": -4}, "offset is not a number of bytes: '-4'"),
    "overflow": ({"offset": 10**20}, "not a number of bytes"),
    "text": ({"offset": "0x4"}, "not a number of bytes"),
    "other digits": ({"offset": "٤"}, "not a number of bytes"),
    "short": ({"offset": 4, "length": 20}, "declares 20 bytes of external data.* need 24"),
    "long": ({"length": 28}, "declares 28 bytes"),
}


@pytest.mark.parametrize("attack", PLACES)
def test_a_place_outside_the_external_file_is_refused(tmp_path: Path, attack: str) -> None:
    keys, message = PLACES[attack]
    path = in_folder(tmp_path, external("w", "data/w.bin", **keys))
    with pytest.raises(BadFileError, match=message):
        open_path(path, folder=tmp_path)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    tensor = external("w", "data/w.bin", offset=4)
    tensor.external_data.add(key="offset", value="0")
    with pytest.raises(BadFileError, match="key 'offset' twice"):
        open_path(in_folder(tmp_path, tensor), folder=tmp_path)


def test_an_external_file_that_shrinks_is_a_typed_error(tmp_path: Path) -> None:
    path = in_folder(tmp_path, external("w", "data/w.bin", offset=4))
    with open_path(path, folder=tmp_path) as source:
        os.truncate(tmp_path / "data" / "w.bin", 10)
        with pytest.raises(BadFileError, match="truncated: tensor 'w'"):
            read(source, "w")
