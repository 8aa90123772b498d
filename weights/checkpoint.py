"""MindSpore checkpoints (.ckpt): tensors by name, without a graph. Read in place.

    Checkpoint.value = 1* -> tag = 1 | tensor = 2 -> dims = 1*, tensor_type = 2, tensor_content = 3
                                     | maptensor = 3

* A tensor of more than 512 MiB stands there in slices: values of the same tag, one after another,
  each with all of the dims and a part of the content.
* No dims are a number without dimensions; so are dims [0] over content, as MindSpore reads them.
* With crc_check=True the file ends in "crc_num" and ten bytes: the CRC-32 of all before them.
* Texts, which MindSpore keeps for the user, are no tensors: they are left out, and are in `texts`.

(mindspore/train/serialization.py and checkpoint.proto, 2.10.)
"""

import itertools
import re
import zlib
from typing import NamedTuple

from weightd.errors import BadFileError
from weightd.weights.about import Said
from weightd.weights.dtypes import MAX_NAME_LENGTH, MAX_TENSORS, tensor_fault
from weightd.weights.file import MAX_CHUNK_NBYTES, InputFile, OnChunk
from weightd.weights.source import Source, TensorSpec, checked_specs
from weightd.weights.wire import LENGTH, VARINT, Field, Wire

_VALUE = 1
_TAG, _TENSOR, _MAP_TENSOR = 1, 2, 3
_DIMS, _TYPE, _CONTENT = 1, 2, 3

_TRAILER = b"crc_num"
_TRAILER_NBYTES = len(_TRAILER) + 10
_MAX_TEXT_NBYTES = 4 * MAX_NAME_LENGTH
_MAX_DIMS = 64
_TEXT = "str"
_ENCODING = "utf-32-le"  # of a text's content: numpy's

DTYPES = {
    "Bool": "bool",
    "Int8": "int8",
    "Int16": "int16",
    "Int32": "int32",
    "Int64": "int64",
    "UInt8": "uint8",
    "UInt16": "uint16",
    "UInt32": "uint32",
    "UInt64": "uint64",
    "Float16": "float16",
    "BFloat16": "bfloat16",
    "Float32": "float32",
    "Float64": "float64",
    "Complex64": "complex64",
    "Complex128": "complex128",
}
_DTYPE = re.compile(rb"str|[A-Z][A-Za-z0-9]{2,30}")  # any version's


class _Value(NamedTuple):
    """One value of the file. content: where its bytes lie."""

    tag: str
    kind: str
    dims: tuple[int, ...]
    content: Field


class CheckpointSource(Source):
    """A checkpoint, all of its framing checked before the first tensor is read. texts: what it
    keeps besides tensors, by name; cut after 1024 characters."""

    format = "ckpt"

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        self.texts: dict[str, str] = {}
        end = _checked_end(file)
        specs: list[TensorSpec] = []
        self._slices: dict[str, list[Field]] = {}
        for group in _grouped(file, Wire(file), end):
            head = group[0]
            if head.kind == _TEXT:
                self.texts[head.tag] = _text(file, group)
                continue
            specs.append(_spec(file.name, group))
            self._slices.setdefault(head.tag, [value.content for value in group])
        self.tensors = checked_specs(file.name, specs)
        if not self.tensors:
            raise BadFileError(f"{file.name} is a checkpoint that holds no tensors")

    def said(self) -> Said:
        return Said(producer="MindSpore", notes=self.texts)

    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        done = 0
        for part in self._slices[spec.name]:
            piece = target[done : done + part.nbytes]
            self._file.read_into(part.offset, piece, f"tensor {spec.name!r}", on_chunk)
            done += part.nbytes


def _checked_end(file: InputFile) -> int:
    """Where the message ends: before the trailer, if there is one, which then must be right."""
    end = file.nbytes - _TRAILER_NBYTES
    if end < 0 or file.read(end, len(_TRAILER), "its end") != _TRAILER:
        return file.nbytes
    wanted = int.from_bytes(file.read(end + len(_TRAILER), 10, "its CRC"), "big")
    found = 0
    chunk = memoryview(bytearray(min(end, MAX_CHUNK_NBYTES)))
    for start in range(0, end, MAX_CHUNK_NBYTES):
        piece = chunk[: min(MAX_CHUNK_NBYTES, end - start)]
        file.read_into(start, piece, "what its CRC is of")
        found = zlib.crc32(piece, found)
    if found != wanted:
        raise BadFileError(
            f"{file.name} is damaged: its CRC is {found:#010x} and should be {wanted:#010x}; copy "
            "it again"
        )
    return end


def _grouped(file: InputFile, wire: Wire, end: int) -> list[list[_Value]]:
    """The values, those of one tag that follow each other together."""
    groups: list[list[_Value]] = []
    for count, field in enumerate(wire.fields(0, end, "the checkpoint")):
        if count == MAX_TENSORS:  # slices count too: they may be empty, and without end
            raise BadFileError(f"{file.name} holds more than {MAX_TENSORS} values")
        if field.number != _VALUE or field.kind != LENGTH:
            raise BadFileError(f"{file.name}: field {field.number} belongs to no checkpoint")
        value = _value(file, wire, field)
        if groups and groups[-1][0].tag == value.tag:
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups


def _value(file: InputFile, wire: Wire, whole: Field) -> _Value:
    tag: str | None = None
    tensor: Field | None = None
    for field in wire.fields(whole.offset, whole.end, "a value"):
        match field.number:
            case n if n == _TAG and field.kind == LENGTH:
                tag = _read_text(file, field, "a name")
            case n if n == _TENSOR and field.kind == LENGTH:
                tensor = field
            case n if n == _MAP_TENSOR:
                raise BadFileError(
                    f"{file.name}: {tag or 'a value'!r} is a hash table, which cannot be shared; "
                    "save the network without its MapParameters"
                )
    if tag is None or tensor is None:
        raise BadFileError(f"{file.name}: a value has no {'tensor' if tag else 'name'}")
    return _tensor(file, wire, tensor, tag)


def _tensor(file: InputFile, wire: Wire, whole: Field, tag: str) -> _Value:
    of = f"{file.name}: tensor {tag[:MAX_NAME_LENGTH]!r}"
    dims: list[int] = []
    kind = ""
    content: Field | None = None
    for field in wire.fields(whole.offset, whole.end, "a tensor"):
        match field.number:
            case n if n == _DIMS and field.kind in (VARINT, LENGTH):
                dims += _dims(wire, field)
            case n if n == _TYPE and field.kind == LENGTH:
                kind = _read_text(file, field, f"the dtype of {tag!r}")
            case n if n == _CONTENT and field.kind == LENGTH and content is None:
                content = field
        if len(dims) > _MAX_DIMS:
            raise BadFileError(f"{of} has more than {_MAX_DIMS} dimensions")
    if content is None:
        content = Field(_CONTENT, LENGTH, whole.end, whole.end, 0, 0)
    return _Value(tag, kind, tuple(dims), content)


def _dims(wire: Wire, field: Field) -> list[int]:
    """One size, or a packed row of them."""
    found = [field.value] if field.kind == VARINT else wire.packed(field, _MAX_DIMS + 1)
    return [value - 2**64 if value >= 2**63 else value for value in found]


def _spec(file_name: str, group: list[_Value]) -> TensorSpec:
    """What the slices of a tensor are together; BadFileError when they contradict each other."""
    head = group[0]
    of = f"{file_name}: tensor {head.tag[:MAX_NAME_LENGTH]!r}"
    if any((value.kind, value.dims) != (head.kind, head.dims) for value in group):
        raise BadFileError(f"{of} occurs twice, or its slices have different shapes or dtypes")
    if head.kind not in DTYPES:
        raise BadFileError(f"{of} has the dtype {head.kind[:64]!r}, which cannot be shared")
    dtype = DTYPES[head.kind]
    nbytes = sum(value.content.nbytes for value in group)
    dims = () if head.dims == (0,) and nbytes else head.dims
    if fault := tensor_fault(dtype, dims):
        raise BadFileError(f"{of} {fault}")
    spec = TensorSpec(head.tag, dtype, dims)
    if nbytes != spec.nbytes:
        raise BadFileError(f"{of} has {nbytes} bytes; {dtype}{list(dims)} is {spec.nbytes}")
    return spec


def _text(file: InputFile, group: list[_Value]) -> str:
    """A text as numpy keeps one: four bytes for each character, zeros behind the last."""
    content = group[0].content
    raw = file.read(content.offset, min(content.nbytes, _MAX_TEXT_NBYTES), "a text")
    try:
        text = raw.decode(_ENCODING, "surrogatepass").rstrip("\0")
    except UnicodeDecodeError as error:
        raise BadFileError(f"{file.name}: text {group[0].tag!r} is not valid: {error}") from error
    return f"{text}..." if content.nbytes > _MAX_TEXT_NBYTES else text


def _read_text(file: InputFile, field: Field, what: str) -> str:
    if field.nbytes > _MAX_TEXT_NBYTES:
        raise BadFileError(f"{file.name}: {what} has {field.nbytes} bytes")
    raw = file.read(field.offset, field.nbytes, what)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadFileError(f"{file.name}: {what} is not valid UTF-8: {raw!r:.80}") from error


def looks_like_checkpoint(file: InputFile) -> bool:
    """Whether the first value of a file is framed as a checkpoint's, and names a dtype of one. The
    rest may be missing: its reader says so."""
    wire = Wire(file)
    first = next(wire.heads(0, file.nbytes, "the checkpoint"), None)
    if first is None or (first.number, first.kind) != (_VALUE, LENGTH):
        return False
    match _first_fields(file, wire, first):
        case [tag, tensor] if (tag.number, tensor.number) == (_TAG, _TENSOR):
            return _names_dtype(file, wire, tensor)
        case [tag, table]:
            return (tag.number, table.number) == (_TAG, _MAP_TENSOR)
        case _:
            return False


def _first_fields(file: InputFile, wire: Wire, whole: Field, most: int = 2) -> list[Field]:
    heads = wire.heads(whole.offset, min(whole.end, file.nbytes), "a value")
    return list(itertools.islice(heads, most))


def _names_dtype(file: InputFile, wire: Wire, tensor: Field) -> bool:
    for field in _first_fields(file, wire, tensor, 2 * _MAX_DIMS):
        if field.number == _TYPE and field.end <= file.nbytes:
            raw = file.read(field.offset, min(field.nbytes, 32), "a dtype")
            return bool(_DTYPE.fullmatch(raw))
    return False
