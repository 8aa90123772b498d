"""ONNX: the weights are found in the file and read from it in place; the rest becomes a skeleton.

What happens to each initializer of the main graph:

* most: become references in the skeleton (location "weights", offset 0, its length), and tensors;
* int64 and empty ones: stay in the skeleton too, because shapes are computed from them; they are
  `constants`, which a later set of weights may leave out;
* 4-bit and 2-bit ones: stay in the skeleton and are no tensors: numpy has no such memory, so they
  cannot be updated.

References are written from scratch: nothing that a file's author put into external_data survives.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from weightd.errors import BadFileError
from weightd.weights.about import Said
from weightd.weights.arrays import numpy_dtype
from weightd.weights.dtypes import name_fault, tensor_fault
from weightd.weights.file import MAX_CHUNK_NBYTES, InputFile, OnChunk
from weightd.weights.onnx_external import ExternalFolder, ExternalPlace, parse_place
from weightd.weights.onnx_graph import (
    DTYPES,
    PACKED_BITS,
    STRING,
    check_self_contained,
    parse_model,
    parse_tensor,
    ports_of,
    said_by,
    text_of,
)
from weightd.weights.onnx_scan import (
    ModelScan,
    TensorParts,
    scan_model,
    scan_tensor,
)
from weightd.weights.rest import MAX_MESSAGE_NBYTES
from weightd.weights.source import Source, TensorSpec, checked_specs
from weightd.weights.wire import Wire

LOCATION = "weights"


class RawPlace(NamedTuple):
    """Bytes in the model's own file, as they are in memory."""

    offset: int


class TypedPlace(NamedTuple):
    """A whole TensorProto, whose numbers are encoded and have to be converted."""

    offset: int
    nbytes: int


Place = RawPlace | TypedPlace | ExternalPlace


class Initializer(NamedTuple):
    """One of the main graph. head: its TensorProto without the data. dtype "": a packed one."""

    head: onnx.TensorProto
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    place: Place

    @property
    def stays_inline(self) -> bool:
        return self.dtype in ("int64", "") or not self.nbytes


class OnnxSource(Source):
    """An ONNX file; its external files are checked when it is opened, and read when asked for.
    weights_only: say nothing of its graph."""

    format = "onnx"

    def __init__(
        self, file: InputFile, folder_fd: int | None = None, *, weights_only: bool = False
    ) -> None:
        super().__init__(file)
        self._folder = self._resources.enter_context(ExternalFolder(folder_fd, file.name))
        try:
            self._open(Wire(file))
            if weights_only:
                self.graph, self.inputs, self.outputs, self.constants = None, (), (), ()
        except BaseException:
            self.close()
            raise

    @property
    def is_whole(self) -> bool:
        return not self._folder.is_used

    def _open(self, wire: Wire) -> None:
        scan = scan_model(self._file, wire)
        found = [self._initializer(scan_tensor(self._file, wire, f)) for f in scan.initializers]
        names = _checked_names(self._file.name, found)
        tensors = [TensorSpec(item.name, item.dtype, item.shape) for item in found if item.dtype]
        self.tensors = checked_specs(self._file.name, tensors)
        self.constants = tuple(item.name for item in found if item.dtype and item.stays_inline)
        self._places = {item.name: item.place for item in found}
        _check_inline_size(self._file.name, scan, found)
        self.graph = scan.skeleton([self._emitted(item) for item in found])
        model = parse_model(self.graph, self._file.name)
        check_self_contained(model, self._file.name)
        self._said = said_by(model, self._file.name)
        of = self._file.name
        graph = model.graph
        self.inputs = ports_of(graph.input, without=names, what=f"{of}: input", is_input=True)
        self.outputs = ports_of(graph.output, what=f"{of}: output", is_input=False)

    def said(self) -> Said:
        return self._said

    def _initializer(self, parts: TensorParts) -> Initializer:
        head = parse_tensor(parts.head, f"{self._file.name}: an initializer")
        name = text_of(head.name, f"{self._file.name}: an initializer's name")
        of = f"{self._file.name}: initializer {name[:64]!r}"
        dtype = _dtype(head, of)
        shape = tuple(head.dims)
        if fault := name_fault(name) or tensor_fault(dtype or "uint8", shape):
            raise BadFileError(f"{of} {fault}")
        bits = PACKED_BITS.get(head.data_type) or 8 * numpy_dtype(dtype).itemsize
        nbytes = (math.prod(shape) * bits + 7) // 8
        place = self._place(parts, head, nbytes, of)
        return Initializer(head, name, dtype, shape, nbytes, place)

    def _place(self, parts: TensorParts, head: onnx.TensorProto, nbytes: int, of: str) -> Place:
        if head.data_location == onnx.TensorProto.EXTERNAL:
            if parts.raw is not None or parts.typed_nbytes:
                raise BadFileError(f"{of} has both external data and its own")
            return self._external_place(head, nbytes, of)
        if parts.raw is not None:
            if parts.raw.nbytes != nbytes:
                raise BadFileError(
                    f"{of} has {parts.raw.nbytes} bytes of raw_data; its shape "
                    f"{list(head.dims)} and dtype need {nbytes}"
                )
            return RawPlace(parts.raw.offset)
        # Encoded numbers take a byte each at least: a huge shape over little data ends here.
        count = math.prod(head.dims)
        if count > parts.typed_nbytes and head.data_type not in PACKED_BITS:
            raise BadFileError(
                f"{of} has {count} elements in its shape but {parts.typed_nbytes} bytes of data"
            )
        return TypedPlace(parts.whole.offset, parts.whole.nbytes)

    def _external_place(self, head: onnx.TensorProto, nbytes: int, of: str) -> ExternalPlace:
        pairs = [
            (text_of(entry.key, f"{of}: a key"), text_of(entry.value, f"{of}: a value"))
            for entry in head.external_data
        ]
        place = parse_place(pairs, of)
        if place.length not in (None, nbytes):
            raise BadFileError(
                f"{of} declares {place.length} bytes of external data; its shape "
                f"{list(head.dims)} and dtype need {nbytes}"
            )
        self._folder.file(place.location, of).check_range(
            place.offset, nbytes, f"initializer {head.name!r}"
        )
        return place

    def _emitted(self, item: Initializer) -> bytes:
        """The initializer as it stands in the skeleton."""
        tensor = onnx.TensorProto(name=item.name, data_type=item.head.data_type, dims=item.shape)
        if not item.stays_inline:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", LOCATION), ("offset", 0), ("length", item.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
        elif isinstance(item.place, TypedPlace):
            tensor = self._typed(item.place, item.name)
            del tensor.external_data[:]
        else:
            raw = bytearray(item.nbytes)
            self._read_place(item.place, memoryview(raw), item.name, None)
            tensor.raw_data = bytes(raw)
        serialized: bytes = tensor.SerializeToString()
        return serialized

    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        place = self._places[spec.name]
        if not isinstance(place, TypedPlace):
            self._read_place(place, target, spec.name, on_chunk)
            return
        raw = _converted(self._typed(place, spec.name), spec, self._file.name)
        for start in range(0, len(target), MAX_CHUNK_NBYTES):
            piece = target[start : start + MAX_CHUNK_NBYTES]
            piece[:] = raw[start : start + MAX_CHUNK_NBYTES]
            if on_chunk is not None:
                on_chunk(piece)

    def _read_place(
        self,
        place: RawPlace | ExternalPlace,
        target: memoryview,
        name: str,
        on_chunk: OnChunk | None,
    ) -> None:
        of = f"{self._file.name}: tensor {name!r}"
        match place:
            case RawPlace(offset):
                self._file.read_into(offset, target, f"tensor {name!r}", on_chunk)
            case ExternalPlace(location, offset):
                file = self._folder.file(location, of)
                file.read_into(offset, target, f"tensor {name!r}", on_chunk)

    def _typed(self, place: TypedPlace, name: str) -> onnx.TensorProto:
        raw = self._file.read(place.offset, place.nbytes, f"tensor {name!r}")
        return parse_tensor(raw, f"{self._file.name}: tensor {name!r}")


def _dtype(head: onnx.TensorProto, of: str) -> str:
    """Our name of the dtype, or "" for the packed ones."""
    if head.HasField("segment"):
        raise BadFileError(f"{of} is one segment of a tensor, which nothing reads any more")
    if head.data_type == STRING:
        raise BadFileError(f"{of} is a tensor of strings, which cannot be shared as memory")
    if head.data_type in PACKED_BITS:
        return ""
    if head.data_type not in DTYPES:
        raise BadFileError(f"{of} has the unknown ONNX dtype {head.data_type}")
    return DTYPES[head.data_type]


def _check_inline_size(file_name: str, scan: ModelScan, found: list[Initializer]) -> None:
    inline = sum(max(item.nbytes, len(item.name)) for item in found if item.stays_inline)
    if len(scan.model_rest) + len(scan.graph_rest) + inline > MAX_MESSAGE_NBYTES:
        raise BadFileError(f"{file_name}: the model is too large without its weights")


def _checked_names(file_name: str, found: list[Initializer]) -> set[str]:
    names: set[str] = set()
    for item in found:
        if item.name in names:
            raise BadFileError(f"{file_name}: initializer {item.name!r} occurs twice")
        names.add(item.name)
    return names


def _converted(tensor: onnx.TensorProto, spec: TensorSpec, file_name: str) -> memoryview:
    """The bytes of a tensor whose numbers are in one of the typed fields."""
    dtype = numpy_dtype(spec.dtype)
    numbers = _numbers(tensor, spec.dtype)
    if numbers.nbytes != spec.nbytes:
        raise BadFileError(
            f"{file_name}: tensor {spec.name!r} has {numbers.nbytes // dtype.itemsize} elements "
            f"of data; its shape {list(spec.shape)} needs {spec.nbytes // dtype.itemsize}"
        )
    return numbers.view(np.uint8).data


def _numbers(tensor: onnx.TensorProto, dtype: str) -> npt.NDArray[Any]:
    # onnx.numpy_helper does the same, but gives bfloat16 as float32 before onnx 1.19.
    match dtype:
        case "float32" | "complex64":
            return np.array(tensor.float_data, np.float32)
        case "float64" | "complex128":
            return np.array(tensor.double_data, np.float64)
        case "int64":
            return np.array(tensor.int64_data, np.int64)
        case "uint32" | "uint64":
            return np.array(tensor.uint64_data, np.uint64).astype(dtype)
        case "bool":
            return np.array(tensor.int32_data, np.int32).astype(bool)
        case _:  # int32_data carries the bits of everything that is not wider
            bits = np.dtype(f"u{numpy_dtype(dtype).itemsize}")
            return np.array(tensor.int32_data, np.int32).astype(bits)
