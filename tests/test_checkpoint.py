"""MindSpore checkpoints: real ones, and ones made by hand to break a rule."""

import os
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.daemons import EARLY, FINAL, Daemon, running_daemon
from tests.mindir import opened
from weightd.errors import BadFileError
from weightd.weights.arrays import Array, numpy_dtype
from weightd.weights.checkpoint import CheckpointSource
from weightd.weights.wire import length_field, varint

DATA = Path(__file__).parent / "data"
X = np.random.default_rng(7).standard_normal((1, 1, 32, 32)).astype(np.float32)


def arrays_of(path: Path) -> dict[str, Array]:
    found = {}
    with opened(path) as source:
        for spec in source.tensors.values():
            raw = bytearray(spec.nbytes)
            source.read_into(spec.name, memoryview(raw))
            found[spec.name] = np.frombuffer(raw, numpy_dtype(spec.dtype)).reshape(spec.shape)
    return found


def value(tag: bytes, dims: list[int], dtype: bytes, content: bytes) -> bytes:
    """One value of a checkpoint."""
    sizes = b"".join(b"\x08" + varint(dim) for dim in dims)
    tensor = sizes + length_field(2, dtype) + length_field(3, content)
    return length_field(1, length_field(1, tag) + length_field(2, tensor))


def written(tmp_path: Path, *values: bytes) -> Path:
    path = tmp_path / "made.ckpt"
    path.write_bytes(b"".join(values))
    return path


# --- real files --------------------------------------------------------------------------


def test_every_dtype_is_read_as_mindspore_wrote_it() -> None:
    found = arrays_of(DATA / "ckpt" / "dtypes.ckpt")
    with np.load(DATA / "ckpt" / "dtypes.npz") as wanted:
        for name in wanted.files:
            assert found[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(found[name], wanted[name])
        bfloats = wanted["float32"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found["bfloat16"], bfloats)
    assert found["number"].shape == ()
    assert found["number"] == 2.5
    assert found["one"].tolist() == [7]


def test_a_checkpoint_has_the_same_bytes_as_the_safetensors_of_the_same_network() -> None:
    checkpoint, tensors = arrays_of(DATA / "lenet5" / "lenet5.ckpt"), arrays_of(FINAL)
    assert checkpoint.keys() == tensors.keys()
    assert all(checkpoint[n].tobytes() == tensors[n].tobytes() for n in tensors)


def test_texts_are_left_out_and_kept_apart() -> None:
    with opened(DATA / "ckpt" / "texts.ckpt") as source:
        assert isinstance(source, CheckpointSource)
        assert source.texts == {"net": "LeNet-5é"}
        assert source.tensors.keys() == {"w", "epoch"}


def test_a_long_text_says_that_it_was_cut(tmp_path: Path) -> None:
    tensor = value(b"w", [1], b"Int8", b"a")
    text = value(b"config", [0], b"str", ("x" * 5000).encode("utf-32-le"))
    with opened(written(tmp_path, tensor, text)) as source:
        assert source.said().notes == {"config": "x" * 1024 + "..."}


def test_a_right_crc_is_taken_off(tmp_path: Path) -> None:
    assert arrays_of(DATA / "ckpt" / "crc.ckpt").keys() == {"w", "b"}


def test_a_wrong_crc_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    raw = bytearray((DATA / "ckpt" / "crc.ckpt").read_bytes())
    raw[20] ^= 1
    path = written(tmp_path, bytes(raw))
    with pytest.raises(BadFileError, match="damaged: its CRC is"):
        opened(path)


def test_an_encrypted_file_is_told_as_such() -> None:
    with pytest.raises(BadFileError, match="encrypted MindSpore file; save it again without"):
        opened(DATA / "ckpt" / "encrypted.ckpt")


# --- made by hand ------------------------------------------------------------------------


def test_slices_of_a_large_tensor_are_joined(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    raw = whole.tobytes()
    slices = [value(b"w", [3, 4], b"Float32", raw[a:b]) for a, b in ((0, 20), (20, 40), (40, 48))]
    path = written(tmp_path, *slices, value(b"b", [2], b"Int8", b"\x01\x02"))
    found = arrays_of(path)
    np.testing.assert_array_equal(found["w"], whole)
    np.testing.assert_array_equal(found["b"], [1, 2])


def test_pieces_of_slices_come_in_order(tmp_path: Path) -> None:
    raw = bytes(range(48))
    path = written(
        tmp_path, value(b"w", [48], b"UInt8", raw[:17]), value(b"w", [48], b"UInt8", raw[17:])
    )
    pieces: list[bytes] = []
    with opened(path) as source:
        source.read_into("w", memoryview(bytearray(48)), lambda piece: pieces.append(bytes(piece)))
    assert b"".join(pieces) == raw


@pytest.mark.parametrize(
    ("dims", "content", "shape"), [([0], bytes(4), ()), ([0], b"", (0,)), ([2, 0], b"", (2, 0))]
)
def test_a_number_is_written_as_dims_of_0(
    tmp_path: Path, dims: list[int], content: bytes, shape: tuple[int, ...]
) -> None:
    with opened(written(tmp_path, value(b"n", dims, b"Float32", content))) as source:
        assert source.tensors["n"].shape == shape


BROKEN = {
    "twice": (
        [value(b"w", [1], b"Int8", b"a"), value(b"w", [1], b"Int8", b"b")],
        "'w' has 2 bytes",
    ),
    "apart": (
        [value(t, [1], b"Int8", b"a") for t in (b"w", b"v", b"w")],
        "tensor 'w' occurs twice",
    ),
    "other dims": (
        [value(b"w", [1], b"Int8", b"a"), value(b"w", [2], b"Int8", b"ab")],
        "slices have different shapes",
    ),
    "too short": ([value(b"w", [3], b"Float32", bytes(8))], r"8 bytes; float32\[3\] is 12"),
    "too long": ([value(b"w", [1], b"Float32", bytes(8))], r"8 bytes; float32\[1\] is 4"),
    "negative": ([value(b"w", [2**64 - 1], b"Float32", bytes(8))], "negative dimension"),
    "overflow": ([value(b"w", [2**62, 4], b"Float32", bytes(8))], "overflow 64 bits"),
    "endless dims": ([value(b"w", [1] * 65, b"Float32", bytes(4))], "more than 64 dimensions"),
    "no name": ([length_field(1, length_field(1, b"") + b"")], "no format that is known"),
    "empty name": ([value(b"", [1], b"Int8", b"a")], "empty name"),
    "not UTF-8": ([value(b"\xff", [1], b"Int8", b"a")], "not valid UTF-8"),
    "quantised": ([value(b"w", [1], b"Int4", b"a")], "dtype 'Int4', which cannot be shared"),
    "dtype of later": (
        [value(b"w", [1], b"HiFloat8", b"a")],
        "dtype 'HiFloat8', which cannot be shared",
    ),
    "no dtype": ([value(b"w", [1], b"@", b"a")], "no format that is known"),
    "text beyond Unicode": (
        [value(b"w", [1], b"Int8", b"a"), value(b"t", [0], b"str", b"\xff" * 4)],
        "text 't' is not valid",
    ),
    "half a character": (
        [value(b"w", [1], b"Int8", b"a"), value(b"t", [0], b"str", b"a\0\0\0b")],
        "text 't' is not valid",
    ),
    "endless slices": (
        [value(b"w", [0], b"Int8", b"") * 100_001],
        "more than 100000 values",
    ),
    "texts alone": ([value(b"t", [0], b"str", "ab".encode("utf-32-le"))], "holds no tensors"),
    "another field": ([value(b"w", [1], b"Int8", b"a"), length_field(2, b"")], "field 2 belongs"),
    "cut off": ([value(b"w", [9], b"Int8", bytes(9))[:-3]], "cut off"),
    "hash table": (
        [length_field(1, length_field(1, b"table") + length_field(3, b""))],
        "'table' is a hash table",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_refused_and_says_where(tmp_path: Path, kind: str) -> None:
    values, message = BROKEN[kind]
    with pytest.raises(BadFileError, match=message):
        opened(written(tmp_path, *values))


def test_a_crc_of_a_file_made_by_hand_is_checked_too(tmp_path: Path) -> None:
    raw = value(b"w", [1], b"Int8", b"a")
    path = written(tmp_path, raw, b"crc_num", zlib.crc32(raw).to_bytes(10, "big"))
    assert arrays_of(path).keys() == {"w"}


# --- through a daemon --------------------------------------------------------------------


def answer(daemon: Daemon, name: str) -> bytes:
    with daemon.attach_here(name) as here:
        (output,) = here.predict({"x": X}).values()
        return output.tobytes()


def test_a_checkpoint_publishes_new_weights_into_an_onnx_model(lenet: Daemon) -> None:
    final = answer(lenet, "lenet")
    assert lenet.client.publish("lenet", EARLY) == 2
    assert answer(lenet, "lenet") != final
    assert lenet.client.publish("lenet", DATA / "lenet5" / "lenet5.ckpt") == 3
    assert answer(lenet, "lenet") == final


def test_a_checkpoint_alone_is_tensors_to_be_read() -> None:
    with running_daemon() as daemon:
        daemon.client.load("weights", DATA / "ckpt" / "dtypes.ckpt")
        daemon.client.allow("weights", os.getpid())
        with daemon.attach_here("weights") as here:
            assert here.weights["bfloat16"].dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(here.weights["int32"].ravel(), np.arange(6) - 2)
