"""npz.py: right values out of every kind of member, and the lies a zip can tell."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_readers import open_bytes, open_path, read
from weightd.errors import BadFileError

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    "vector": np.array([np.nan, -0.0], np.float64),
    "scalar": np.array(7, np.uint64),
    "empty": np.zeros((3, 0), np.float16),
    "truth": np.array([True, False]),
    "a/b.c": np.array([1j], np.complex128),
    "large": np.random.default_rng(0).integers(0, 9, (1200, 1000)),
}


def npy(array: Any, **options: Any) -> bytes:
    raw = io.BytesIO()
    np.lib.format.write_array(raw, np.asanyarray(array), **options)
    return raw.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_saved_them(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "arrays.npz", **ARRAYS)
    with open_path(tmp_path / "arrays.npz") as source:
        assert source.format == "npz"
        assert source.tensors.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert source.tensors[name].dtype == array.dtype.name
            assert source.tensors[name].shape == array.shape
            assert read(source, name) == array.tobytes()  # tobytes is in C order


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_chunks_seen_are_the_tensor(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "arrays.npz", **ARRAYS)
    with open_path(tmp_path / "arrays.npz") as source:
        seen: list[bytes] = []
        for name, array in ARRAYS.items():
            target = memoryview(bytearray(array.nbytes))
            source.read_into(name, target, lambda chunk: seen.append(bytes(chunk)))
            assert b"".join(seen) == array.tobytes()
            seen.clear()


def test_a_large_zip_with_something_in_front_is_read(tmp_path: Path) -> None:
    raw = b"PK\x03\x04 front" + zipped({"a.npy": npy(ARRAYS["rows"])})
    with open_bytes(tmp_path, raw) as source:
        assert read(source, "a") == ARRAYS["rows"].tobytes()


def with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    raw = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw)) + raw + data


def declared(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    return with_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n", data)


MEMBERS: dict[str, tuple[str, bytes, str]] = {
    "objects": ("a.npy", npy([None], allow_pickle=True), "never unpickled"),
    "big-endian": ("a.npy", npy(np.array([1], ">f4")), "member 'a.npy': big-endian"),
    "dates": ("a.npy", npy(np.array(["2020"], "M8[D]")), "not supported"),
    "structures": ("a.npy", npy(np.array([(1,)], [("x", "i4")])), "not supported"),
    "text": ("a.npy", npy(np.array(["x"])), "not supported"),
    "no suffix": ("readme.txt", b"hello", "'readme.txt' is not a .npy array"),
    "only a suffix": (".npy", npy([1]), "empty name"),
    "not npy": ("a.npy", b"hello", "bad .npy header"),
    "empty member": ("a.npy", b"", "bad .npy header"),
    "cut off header": ("a.npy", npy([1.0])[:20], "bad .npy header"),
    "version 9": ("a.npy", with_header("{}", version=b"\x09\x00"), "bad .npy header"),
    "no dictionary": ("a.npy", with_header("[1]"), "bad .npy header"),
    "code": ("a.npy", with_header("__import__('os')"), "bad .npy header"),
    "deep": ("a.npy", with_header("(" * 5000), "bad .npy header"),
    "bad descr": ("a.npy", declared("(1,)", bytes(4), descr="'zz'"), "bad .npy header"),
    "too few bytes": ("a.npy", declared("(2,)", bytes(4)), "is 8 bytes; the zip .* has 4"),
    "too many bytes": ("a.npy", declared("(2,)", bytes(12)), "is 8 bytes; the zip .* has 12"),
    "petabytes": ("a.npy", declared("(2**50,)".replace("2**50", str(2**50))), "has 0 for it"),
    "negative": ("a.npy", declared("(-1, -1)", bytes(4)), "negative dimension"),
    "overflow": ("a.npy", declared(f"(0, {2**40}, {2**40})"), "overflow"),
    "text shape": ("a.npy", declared("('1',)"), "bad .npy header"),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("attack", MEMBERS)
def test_a_bad_member_is_refused_and_says_why(
    tmp_path: Path, attack: str, compression: int
) -> None:
    name, content, message = MEMBERS[attack]
    with pytest.raises(BadFileError, match=message):
        open_bytes(tmp_path, zipped({name: content}, compression))


GOOD = npy(np.arange(50_000, dtype=np.float32))
STORED = zipped({"a.npy": GOOD})
DEFLATED = zipped({"a.npy": GOOD}, zipfile.ZIP_DEFLATED)
DIRECTORY = STORED.rindex(b"PK\x01\x02")


def patched(raw: bytes, offset: int, piece: bytes) -> bytes:
    return raw[:offset] + piece + raw[offset + len(piece) :]


def twice(second: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as archive:
            archive.writestr("a.npy", GOOD)
            archive.writestr(second, GOOD)
    return raw.getvalue()


def overlapping() -> bytes:
    raw = twice("b.npy")
    return patched(raw, raw.rindex(b"PK\x01\x02") + 42, bytes(4))  # b's data are a's


ZIPS: dict[str, tuple[bytes, str]] = {
    "no members": (zipped({}), "holds no tensors"),
    "no directory": (STORED[:DIRECTORY], "zip directory is broken"),
    "cut off": (STORED[:100], "zip directory is broken"),
    "encrypted": (patched(STORED, DIRECTORY + 8, b"\x01"), "'a.npy' is encrypted"),
    "bzip2": (zipped({"a.npy": GOOD}, zipfile.ZIP_BZIP2), "compression 12"),
    "future version": (patched(STORED, DIRECTORY + 6, b"\xff"), "zip directory is broken"),
    "sizes differ": (patched(STORED, DIRECTORY + 20, b"\x01"), "two sizes differ"),
    "misplaced": (patched(STORED, DIRECTORY + 42, b"\x01"), "not where the zip directory says"),
    "outside": (patched(STORED, DIRECTORY + 42, b"\xff\xff\xff"), "past the end of the file"),
    "duplicate": (twice("a.npy"), "tensor 'a' occurs twice"),
    "overlap": (overlapping(), "'a.npy' and 'b.npy' overlap"),
    "impossible ratio": (
        patched(DEFLATED, DEFLATED.rindex(b"PK\x01\x02") + 27, b"\x7f"),
        "which deflate cannot do",
    ),
}


@pytest.mark.parametrize("attack", ZIPS)
def test_a_bad_zip_is_refused_and_says_why(tmp_path: Path, attack: str) -> None:
    raw, message = ZIPS[attack]
    with pytest.raises(BadFileError, match=message):
        open_bytes(tmp_path, raw)


def lying(inflated: bytes, *, size: int) -> bytes:
    """A deflated member whose directory entry declares `size` bytes."""
    raw = zipped({"a.npy": inflated}, zipfile.ZIP_DEFLATED)
    return patched(raw, raw.rindex(b"PK\x01\x02") + 24, struct.pack("<I", size))


@pytest.mark.parametrize("extra", [1, 4, 100_000_000])
def test_a_member_that_inflates_to_more_than_it_declares_is_stopped(
    tmp_path: Path, extra: int
) -> None:
    source = open_bytes(tmp_path, lying(GOOD + bytes(extra), size=len(GOOD)))
    with source, pytest.raises(BadFileError, match="more than the 200000 bytes it declares"):
        read(source, "a")


def test_a_member_that_inflates_to_less_than_it_declares_is_refused(tmp_path: Path) -> None:
    source = open_bytes(tmp_path, lying(GOOD[:-1], size=len(GOOD)))
    with source, pytest.raises(BadFileError, match="inflates to 199999 bytes; it declares 200000"):
        read(source, "a")


def test_a_damaged_stored_member_is_refused(tmp_path: Path) -> None:
    source = open_bytes(tmp_path, patched(STORED, 5000, b"\xff\xff"))
    with source, pytest.raises(BadFileError, match="damaged: wrong CRC"):
        read(source, "a")


def test_a_damaged_deflated_member_is_refused(tmp_path: Path) -> None:
    directory = DEFLATED.rindex(b"PK\x01\x02")
    source = open_bytes(tmp_path, patched(DEFLATED, directory - 200, bytes(150)))
    with source, pytest.raises(BadFileError, match=r"does not inflate|inflates to|wrong CRC"):
        read(source, "a")


def test_a_wrong_crc_of_a_deflated_member_is_noticed(tmp_path: Path) -> None:
    crc = struct.pack("<I", zlib.crc32(GOOD) ^ 1)
    raw = patched(DEFLATED, DEFLATED.rindex(b"PK\x01\x02") + 16, crc)
    with open_bytes(tmp_path, raw) as source, pytest.raises(BadFileError, match="wrong CRC"):
        read(source, "a")


def test_a_member_that_is_cut_off_while_it_is_read_is_a_typed_error(tmp_path: Path) -> None:
    with open_bytes(tmp_path, STORED) as source:
        os.truncate(tmp_path / "offered.bin", 1000)
        with pytest.raises(BadFileError, match="truncated"):
            read(source, "a")
