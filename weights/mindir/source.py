"""A MindIR file as a Source: its parameters by their stable names, and its graph as ONNX.

A parameter's stable name is its `ref_key`, "conv1.weight": the name that a checkpoint of the same
network has for it. A file of more than 1 GB keeps its parameters in files beside it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import onnx

from weightd.errors import BadFileError
from weightd.weights.about import Said
from weightd.weights.entries import Port
from weightd.weights.file import InputFile, OnChunk
from weightd.weights.mindir.graph import Model, parsed_model
from weightd.weights.mindir.inference import ONNX_DTYPES
from weightd.weights.mindir.proto import TensorType, Type, dtype_of, text_of
from weightd.weights.mindir.scan import FoundParameter, scan_mindir
from weightd.weights.mindir.schema import parse
from weightd.weights.mindir.translator import translated
from weightd.weights.onnx_external import ExternalFolder, ExternalPlace
from weightd.weights.onnx_file import LOCATION, RawPlace
from weightd.weights.onnx_graph import ports_of
from weightd.weights.source import Source, TensorSpec, checked_specs

_TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


class _Parameter(NamedTuple):
    """name: as the graph says it; spec.name is the stable one."""

    name: str
    spec: TensorSpec
    place: RawPlace | ExternalPlace

    @property
    def stays_inline(self) -> bool:
        return self.spec.dtype == "int64" or not self.spec.nbytes


class MindirSource(Source):
    """A MindIR file. weights_only: do not translate its graph. model: what it says besides its
    parameters. External files are checked when it is opened, and read when asked for."""

    format = "mindir"

    def __init__(
        self, file: InputFile, folder_fd: int | None = None, *, weights_only: bool = False
    ) -> None:
        super().__init__(file)
        self._folder = self._resources.enter_context(ExternalFolder(folder_fd, file.name))
        try:
            self.model = self._opened()
            if not weights_only:
                self._translate()
        except BaseException:
            self.close()
            raise

    @property
    def is_whole(self) -> bool:
        return not self._folder.is_used

    def _opened(self) -> Model:
        of = self._file.name
        scan = scan_mindir(self._file)
        model = parsed_model(parse("ModelProto", scan.model, of), of)
        self._parameters = [self._parameter(found) for found in scan.parameters]
        self.tensors = checked_specs(of, (parameter.spec for parameter in self._parameters))
        if len({parameter.name for parameter in self._parameters}) < len(self._parameters):
            raise BadFileError(f"{of} has two parameters of the same name")
        self._places = {parameter.spec.name: parameter.place for parameter in self._parameters}
        return model

    def _parameter(self, found: FoundParameter) -> _Parameter:
        head = parse("TensorProto", found.head, f"{self._file.name}: a parameter")
        name = text_of(head.name, f"{self._file.name}: a parameter's name")
        stable = text_of(head.ref_key, f"{self._file.name}: a parameter's ref_key")
        stable = stable or name.rpartition(":")[2]
        of = f"{self._file.name}: parameter {stable[:64]!r}"
        _check_plain(head, of)
        spec = TensorSpec(stable, dtype_of(head.data_type, of), tuple(head.dims))
        checked_specs(self._file.name, [spec])
        return _Parameter(name, spec, self._place(found, head, spec, of))

    def _place(
        self, found: FoundParameter, head: Any, spec: TensorSpec, of: str
    ) -> RawPlace | ExternalPlace:
        if head.HasField("external_data"):
            if found.raw is not None:
                raise BadFileError(f"{of} has both external data and its own")
            return self._external_place(head.external_data, spec, of)
        nbytes = 0 if found.raw is None else found.raw.nbytes
        if nbytes != spec.nbytes:
            raise BadFileError(
                f"{of} has {nbytes} bytes of data; {spec.dtype}{list(spec.shape)} needs "
                f"{spec.nbytes}"
            )
        return RawPlace(0 if found.raw is None else found.raw.offset)

    def _external_place(self, data: Any, spec: TensorSpec, of: str) -> ExternalPlace:
        place = ExternalPlace(text_of(data.location, f"{of}: its file"), data.offset, data.length)
        if data.length != spec.nbytes:
            raise BadFileError(
                f"{of} declares {data.length} bytes of external data; {spec.dtype}"
                f"{list(spec.shape)} needs {spec.nbytes}"
            )
        file = self._folder.file(place.location, of)
        file.check_range(place.offset, spec.nbytes, f"parameter {spec.name!r}")
        return place

    def _translate(self) -> None:
        of = self._file.name
        stable_names = {p.name: p.spec.name for p in self._parameters}
        types = {p.spec.name: TensorType(p.spec.dtype, p.spec.shape) for p in self._parameters}
        model, used = translated(self.model, types, stable_names, of)
        model.graph.initializer.extend(
            self._initializer(p) for p in self._parameters if p.spec.name in used
        )
        self.constants = tuple(p.spec.name for p in self._parameters if p.stays_inline)
        self.graph = model.SerializeToString(deterministic=True)
        self.inputs = ports_of(model.graph.input, what=f"{of}: input", is_input=True)
        self.outputs = ports_of(model.graph.output, what=f"{of}: output", is_input=False)

    def _initializer(self, parameter: _Parameter) -> onnx.TensorProto:
        """A weight as it stands in the graph: a reference; or its bytes, where it is small."""
        spec = parameter.spec
        tensor = onnx.TensorProto(
            name=spec.name, data_type=ONNX_DTYPES[spec.dtype], dims=spec.shape
        )
        if parameter.stays_inline:
            raw = bytearray(spec.nbytes)
            self.read_into(spec.name, memoryview(raw))
            tensor.raw_data = bytes(raw)
            return tensor
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", LOCATION), ("offset", 0), ("length", spec.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def said(self) -> Said:
        """MindIR's own operators, and the ports also of a graph that cannot be translated."""
        graphs = (self.model.main, *self.model.functions.values())
        types = {node.output: node.type for node in self.model.main.nodes}
        return Said(
            producer=f"{self.model.producer} {self.model.version}",
            notes=self.model.notes,
            inputs=_ports(self.model.main.inputs),
            outputs=_ports((name, types.get(name)) for name in self.model.main.outputs),
            operators=[node.op or "(call)" for graph in graphs for node in graph.nodes],
        )

    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        what = f"parameter {spec.name!r}"
        match self._places[spec.name]:
            case RawPlace(offset):
                self._file.read_into(offset, target, what, on_chunk)
            case ExternalPlace(location, offset):
                file = self._folder.file(location, f"{self._file.name}: {what}")
                file.read_into(offset, target, what, on_chunk)


def _ports(declared: Iterable[tuple[str, Type]]) -> tuple[Port, ...]:
    """What is declared as a tensor; names without their graph's."""
    ports = []
    for name, type_ in declared:
        parts = type_ if isinstance(type_, tuple) else (type_,)
        short = name.rpartition(":")[2] if len(parts) == 1 else ""
        for number, part in enumerate(parts):
            if isinstance(part, TensorType):
                sizes = tuple(None if size < 0 else size for size in part.shape or ())
                ports.append(Port(short or f"output_{number}", part.dtype, sizes))
    return tuple(ports)


def _check_plain(head: Any, of: str) -> None:
    """BadFileError for a parameter whose bytes are not simply its numbers."""
    if head.compression_type or head.quant_params:
        raise BadFileError(
            f"{of} is compressed or quantised by MindSpore Lite's converter; export the network "
            "itself (mindspore.export(..., file_format='MINDIR'))"
        )
    if any(len(getattr(head, field)) for field in _TYPED_DATA):
        raise BadFileError(f"{of} has its numbers in typed fields, which MindSpore never writes")
