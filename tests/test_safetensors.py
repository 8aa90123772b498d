"""safetensors.py: what comes back, and the list of attacks that a header can be."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.test_readers import DATA, open_bytes, open_path, read
from weightd.errors import BadFileError
from weightd.weights.safetensors import CODES, DTYPES, write_safetensors
from weightd.weights.source import TensorSpec, open_source


def spec(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def framed(header: str | bytes, data: bytes = b"") -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return len(raw).to_bytes(8, "little") + raw + data


def file_of(tensors: dict[str, Any], nbytes: int) -> bytes:
    return framed(json.dumps(tensors), bytes(range(256)) * (nbytes // 256) + bytes(nbytes % 256))


def test_a_real_file_is_read_tensor_by_tensor() -> None:
    raw = (DATA / "lenet5_early.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    with open_path(DATA / "lenet5_early.safetensors") as source:
        assert source.graph is None
        assert source.tensors["fc3.bias"] == TensorSpec("fc3.bias", "float32", (10,))
        for name in source.tensors:
            begin, end = header[name]["data_offsets"]
            assert read(source, name) == raw[8 + size + begin : 8 + size + end]


def test_zero_size_tensors_and_scalars_and_metadata_are_legal(tmp_path: Path) -> None:
    tensors = {
        "__metadata__": {"format": "pt"},
        "scalar": spec([], 0, 4),
        "empty": spec([0, 7], 4, 4),
        "last": spec([2], 4, 12),
    }
    with open_bytes(tmp_path, file_of(tensors, 12)) as source:
        assert [source.tensors[name].shape for name in source.tensors] == [(), (0, 7), (2,)]
        assert read(source, "empty") == b""


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_of_the_format_is_read(tmp_path: Path, code: str) -> None:
    size = TensorSpec("a", DTYPES[code], (3,)).nbytes
    with open_bytes(tmp_path, file_of({"a": spec([3], 0, size, code)}, size)) as source:
        assert source.tensors["a"].dtype == DTYPES[code]


ONE = spec([2], 0, 8)
HEADERS: dict[str, tuple[bytes, str]] = {
    "too large": ((100_000_001).to_bytes(8, "little") + b"{}", "header is too large"),
    "longer than the file": ((1000).to_bytes(8, "little") + b"{}", "past the end of the file"),
    "not JSON": (framed("{not json}"), "not valid JSON"),
    "not UTF-8": (framed(b'{"\xff": 1}'), "not valid JSON"),
    "two values": (framed("{}{}"), "not valid JSON"),
    "not a number": (framed('{"a": NaN}'), "NaN is not JSON"),
    "infinite": (framed('{"a": [-Infinity]}'), "Infinity is not JSON"),
    "endless digits": (framed('{"a": ' + "9" * 5000 + "}"), "not valid JSON"),
    "deep": (framed('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "not valid JSON"),
    "duplicate key": (framed('{"a": 1, "a": 2}'), "key 'a' occurs twice"),
    "duplicate inner key": (framed('{"a": {"dtype": 1, "dtype": 2}}'), "'dtype' occurs twice"),
    "no tensors": (framed("{}"), "holds no tensors"),
    "metadata only": (framed('{"__metadata__": {}}'), "holds no tensors"),
    "metadata of numbers": (framed('{"__metadata__": {"a": 1}}'), "not an object of strings"),
    "metadata list": (framed('{"__metadata__": []}'), "not an object of strings"),
    "metadata null": (framed('{"__metadata__": null}'), "not an object of strings"),
}


@pytest.mark.parametrize("attack", HEADERS)
def test_a_bad_header_is_refused_and_says_why(tmp_path: Path, attack: str) -> None:
    raw, message = HEADERS[attack]
    with pytest.raises(BadFileError, match=message):
        open_bytes(tmp_path, raw)


TENSORS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no object": ({"a": 1}, 0, "tensor 'a' needs exactly"),
    "missing key": ({"a": {"dtype": "F32", "shape": []}}, 0, "needs exactly"),
    "extra key": ({"a": {**ONE, "x": 1}}, 8, "needs exactly"),
    "unknown dtype": ({"a": spec([2], 0, 8, "F31")}, 8, "unknown dtype 'F31'"),
    "dtype a list": ({"a": spec([2], 0, 8, ["F32"])}, 8, "unknown dtype"),
    "negative shape": ({"a": spec([-2], 0, 8)}, 8, "its shape is not a list of integers"),
    "float shape": ({"a": spec([2.0], 0, 8)}, 8, "its shape is not"),
    "bool shape": ({"a": spec([True], 0, 4)}, 4, "its shape is not"),
    "huge shape": ({"a": spec([2**63], 0, 8)}, 8, "its shape is not"),
    "text shape": ({"a": {**ONE, "shape": "2"}}, 8, "its shape is not"),
    "overflowing shape": ({"a": spec([2**40, 2**40], 0, 8)}, 8, "overflow 64 bits"),
    "hidden overflow": ({"a": spec([0, 2**40, 2**40], 0, 0)}, 0, "overflow 64 bits"),
    "many dimensions": ({"a": spec([1] * 65, 0, 4)}, 4, "65 dimensions"),
    "backwards": ({"a": spec([2], 8, 0)}, 8, "are not \\[begin, end\\]"),
    "three offsets": ({"a": {**ONE, "data_offsets": [0, 4, 8]}}, 8, "are not"),
    "negative offset": ({"a": spec([2], -8, 0)}, 8, "data_offsets is not"),
    "wrong size": ({"a": spec([2], 0, 9)}, 9, r"has 9 bytes; float32\[2\] is 8"),
    "hole at the start": ({"a": spec([2], 4, 12)}, 12, "leaves a hole before it"),
    "hole": ({"a": ONE, "b": spec([2], 12, 20)}, 20, "tensor 'b' leaves a hole"),
    "overlap": ({"a": ONE, "b": spec([2], 4, 12)}, 12, "tensor 'b' overlaps"),
    "the same bytes twice": ({"a": ONE, "b": ONE}, 8, "overlaps"),
    "truncated": ({"a": ONE}, 7, "the file is truncated"),
    "bytes left over": ({"a": ONE}, 9, "bytes after the last one"),
    "past the end": ({"a": spec([2**50], 0, 2**52)}, 8, "the file is truncated"),
    "empty name": ({"": ONE}, 8, "empty name"),
    "long name": ({"n" * 1025: ONE}, 8, "1025 characters"),
    "name of no text": ({"\ud800": ONE}, 8, "not valid Unicode"),
}


@pytest.mark.parametrize("attack", TENSORS)
def test_a_bad_tensor_is_refused_and_says_why(tmp_path: Path, attack: str) -> None:
    tensors, nbytes, message = TENSORS[attack]
    with pytest.raises(BadFileError, match=message):
        open_bytes(tmp_path, file_of(tensors, nbytes))


# --- writing ------------------------------------------------------------------------------

WRITTEN: dict[str, np.ndarray[Any, Any]] = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "nan": np.array([np.nan, np.inf], np.float64),
    "columns": np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
    "strided": np.arange(20, dtype=np.uint8)[::3],
    "scalar": np.array(3.5, np.float16),
    "empty": np.zeros((0, 4), np.int64),
    "brain": np.array([1, 2], ml_dtypes.bfloat16),
    "eighth": np.array([1, 2], ml_dtypes.float8_e4m3fn),
    "truth": np.array([True, False]),
    "naïve/名前": np.array([1j], np.complex64),
}


def test_what_is_written_is_read_back_from_sealed_memory() -> None:
    fd = write_safetensors(WRITTEN, name="weights")
    with open_source(fd, file_name="weights") as source:
        assert source.tensors.keys() == WRITTEN.keys()
        for name, array in WRITTEN.items():
            assert source.tensors[name].shape == array.shape
            assert read(source, name) == array.tobytes()
    os.close(fd)


def test_what_is_written_can_never_change_again() -> None:
    fd = write_safetensors(WRITTEN, name="weights")
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == wanted
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_the_header_keeps_the_tensors_aligned() -> None:
    fd = write_safetensors({"odd name": WRITTEN["plain"]}, name="weights")
    assert int.from_bytes(os.pread(fd, 8, 0), "little") % 8 == 0
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a", np.array([1], ">f4"), "big-endian"),
        ("a", np.array([None]), "not supported"),
        ("a", np.array([1], np.complex128), "cannot hold 'a' \\(complex128\\)"),
        ("__metadata__", np.array([1.0]), "cannot hold '__metadata__'"),
        ("", np.array([1.0]), "empty name"),
    ],
)
def test_what_the_format_cannot_say_is_refused(
    name: str, array: np.ndarray[Any, Any], message: str
) -> None:
    with pytest.raises(BadFileError, match=message):
        write_safetensors({name: array}, name="weights")


def test_the_dtype_codes_are_a_bijection() -> None:
    assert len(CODES) == len(DTYPES)


def test_a_long_or_foreign_name_is_no_obstacle() -> None:
    os.close(write_safetensors({"a": WRITTEN["plain"]}, name="ü" * 5000))
