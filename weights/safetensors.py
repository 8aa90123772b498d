"""safetensors: read with our own header parser, written into sealed memory.

    u64 size of the header, little endian | header: a JSON object | the tensors' bytes

The header maps each name to {"dtype", "shape", "data_offsets": [begin, end]}, and "__metadata__" to
strings. The tensors lie end to end, from 0 to the end of the file, without a hole.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from weightd.errors import BadFileError
from weightd.weights.about import Said
from weightd.weights.dtypes import MAX_INT, MAX_NAME_LENGTH, nbytes_of
from weightd.weights.file import InputFile, OnChunk
from weightd.weights.source import Source, TensorSpec, checked_specs

if TYPE_CHECKING:
    from weightd.weights.arrays import Array

MAX_HEADER_NBYTES = 100_000_000
SIZE_NBYTES = 8
ALIGNMENT = 8
METADATA = "__metadata__"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
WRITE_NBYTES = 64 * 1024 * 1024
MAX_MEMFD_NAME = 200  # bytes; the kernel's limit is 249

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
CODES = {name: code for code, name in DTYPES.items()}


class SafetensorsSource(Source):
    """A safetensors file, its header checked in full before the first tensor is read."""

    format = "safetensors"

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        header, self._data_start, self._notes = _read_header(file)
        places = {name: _place(file.name, name, value) for name, value in header.items()}
        if not places:
            raise BadFileError(f"{file.name} holds no tensors")
        self.tensors = checked_specs(file.name, (spec for spec, _, _ in places.values()))
        self._offsets = _checked_offsets(file.name, places, file.nbytes - self._data_start)

    def said(self) -> Said:
        return Said(notes=self._notes)

    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        offset = self._data_start + self._offsets[spec.name]
        self._file.read_into(offset, target, f"tensor {spec.name!r}", on_chunk)


def _read_header(file: InputFile) -> tuple[dict[str, object], int, dict[str, str]]:
    """The tensors' entries, where the data begins, and the metadata."""
    nbytes = int.from_bytes(file.read(0, SIZE_NBYTES, "the header's size"), "little")
    if nbytes > MAX_HEADER_NBYTES:
        raise BadFileError(
            f"{file.name}: the header is too large: {nbytes} bytes; the limit is "
            f"{MAX_HEADER_NBYTES}"
        )
    raw = file.read(SIZE_NBYTES, nbytes, "the header")
    try:
        header: object = json.loads(
            raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{file.name}: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise BadFileError(f"{file.name}: the header is not a JSON object")
    notes = _checked_metadata(file.name, header.pop(METADATA, {}))
    return header, SIZE_NBYTES + nbytes, notes


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique: dict[str, object] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"key {key[:MAX_NAME_LENGTH]!r} occurs twice")
        unique[key] = value
    return unique


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _checked_metadata(file_name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BadFileError(f"{file_name}: {METADATA} is not an object of strings")
    return value


def _place(file_name: str, name: str, value: object) -> tuple[TensorSpec, int, int]:
    of = f"{file_name}: tensor {name[:MAX_NAME_LENGTH]!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadFileError(f"{of} needs exactly dtype, shape and data_offsets")
    code = value["dtype"]
    if not isinstance(code, str) or code not in DTYPES:
        raise BadFileError(f"{of} has the unknown dtype {str(code)[:64]!r}")
    shape = _naturals(f"{of}: its shape", value["shape"])
    offsets = _naturals(f"{of}: data_offsets", value["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadFileError(f"{of}: data_offsets {offsets} are not [begin, end]")
    return TensorSpec(name, DTYPES[code], shape), offsets[0], offsets[1]


def _naturals(what: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(_is_natural(item) for item in value):
        raise BadFileError(f"{what} is not a list of integers from 0 to 2**63 - 1")
    return tuple(value)


def _is_natural(value: object) -> bool:
    # Not isinstance: True is an int, too.
    return type(value) is int and 0 <= value <= MAX_INT


def _checked_offsets(
    file_name: str, places: Mapping[str, tuple[TensorSpec, int, int]], data_nbytes: int
) -> dict[str, int]:
    end_before = 0
    for spec, begin, end in sorted(places.values(), key=lambda place: place[1:]):
        of = f"{file_name}: tensor {spec.name!r}"
        if begin != end_before:
            what = "overlaps the one before it" if begin < end_before else "leaves a hole before it"
            raise BadFileError(f"{of} {what}: it begins at {begin}, not at {end_before}")
        if end - begin != spec.nbytes:
            raise BadFileError(
                f"{of} has {end - begin} bytes; {spec.dtype}{list(spec.shape)} is {spec.nbytes}"
            )
        end_before = end
    if end_before != data_nbytes:
        what = "the file is truncated" if end_before > data_nbytes else "bytes after the last one"
        raise BadFileError(
            f"{file_name}: {what}: the tensors end at byte {end_before} of {data_nbytes}"
        )
    return {name: begin for name, (_, begin, _) in places.items()}


def write_safetensors(tensors: Mapping[str, "Array"], *, name: str) -> int:
    """A sealed memfd that holds `tensors` as a safetensors file; the caller owns the descriptor.

    `name` is for people. BadFileError for a dtype or name that the format has no way to say.
    """
    from weightd.weights.arrays import dtype_name

    specs = [TensorSpec(key, dtype_name(item.dtype), item.shape) for key, item in tensors.items()]
    header = _header(name, specs)
    label = name.replace("\0", "").encode(errors="replace")[:MAX_MEMFD_NAME]
    fd = os.memfd_create(label.decode(errors="ignore"), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(fd, memoryview(header))
        for array in tensors.values():
            _write(fd, _plain_bytes(array))
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _header(name: str, specs: list[TensorSpec]) -> bytes:
    entries: dict[str, object] = {}
    at = 0
    for spec in checked_specs(name, specs).values():
        if spec.dtype not in CODES or spec.name == METADATA:
            raise BadFileError(f"{name}: safetensors cannot hold {spec.name!r} ({spec.dtype})")
        end = at + nbytes_of(spec.dtype, spec.shape)
        entries[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)
    return len(padded).to_bytes(SIZE_NBYTES, "little") + padded


def _plain_bytes(array: "Array") -> memoryview:
    import numpy as np

    # As bytes, because bfloat16 and float8 arrays have no buffer of their own.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _write(fd: int, raw: memoryview) -> None:
    while raw:
        raw = raw[os.write(fd, raw[:WRITE_NBYTES]) :]
