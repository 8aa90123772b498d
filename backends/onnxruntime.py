"""onnxruntime over one shared copy, by the plain mechanism. The only file that imports it.

The stager lets onnxruntime optimise the graph once and saves what came out. A worker opens that
graph with optimisation off and each weight lent to the session (add_initializer), so that the
session reads the shared pages and copies nothing:

    stager   graph + raw ──ORT_ENABLE_ALL──► optimised graph + its tensors ──► sealed segment
    worker   graph ──ORT_DISABLE_ALL, no pre-packing──► session ──reads──► mapped segment

Three rules, each learnt from a wrong result (docs/decisions/0005): lend only to an optimised graph
with optimisation off, since optimisers read the placeholder file; keep pre-packing off, since it is
a private copy; keep the arrays alive as long as the session, since it does not.

A lent weight must still exist as external data when the graph is parsed: an empty sparse file
stands in for it, and goes as soon as the session is there.
"""

import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# It would write to the user's cache folder and start a thread that reports home. Whoever wants that
# sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from xxhash import xxh3_64_hexdigest

from weightd.backends.base import Compiled, RawTensors, Report
from weightd.backends.current import Current
from weightd.backends.version import MappedVersion
from weightd.errors import (
    CompileError,
    EngineMismatchError,
    PredictError,
)
from weightd.ipc.segment import new_memfd
from weightd.weights.arrays import Array
from weightd.weights.file import OnChunk
from weightd.weights.source import TensorSpec

_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        value
        for value in vars(ort_errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)
_WEIGHTS = "weights"  # the location under which the graph names its external data
_MIN_EXTERNAL_NBYTES = 64  # smaller tensors stay inside the graph
_CHUNK_NBYTES = 16 * 2**20
_STAGER_THREADS = 8
_BFLOAT16_AND_FLOAT8 = {
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
}  # onnx.TensorProto.DataType; numpy's own dtypes need no number


class _Optimised(Compiled):
    """The optimised graph, and a memfd in which onnxruntime left its tensors."""

    def __init__(
        self, graph: bytes, tensors: dict[str, TensorSpec], places: dict[str, int], data_fd: int
    ) -> None:
        super().__init__(graph, tensors, _stamp())
        self._places = places
        self._data_fd = os.dup(data_fd)
        self._resources.callback(os.close, self._data_fd)

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        for start in range(0, len(target), _CHUNK_NBYTES):
            piece = target[start : start + _CHUNK_NBYTES]
            if os.preadv(self._data_fd, [piece], self._places[name] + start) != len(piece):
                raise CompileError(f"onnxruntime left tensor {name!r} incomplete")
            on_chunk(piece)


class _Open:
    """A session and the version that it reads. Dies as a whole, with its last run."""

    def __init__(self, version: MappedVersion, threads: int) -> None:
        self.arrays = version.compiled()
        self.session = _open_session(version, self.arrays, threads)
        self.output_names = [port.name for port in version.manifest.outputs]


class PlainSession:
    """A session over shared pages. A swap opens the new one aside and exchanges one reference."""

    def __init__(self, version: MappedVersion, threads: int) -> None:
        self._threads = threads
        self._current = Current(_Open(version, threads))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        current = self._current.get()
        try:
            outputs = current.session.run(current.output_names, inputs)
        except _ERRORS as error:
            raise PredictError(f"onnxruntime failed: {error}") from error
        return dict(zip(current.output_names, outputs, strict=True))

    def swap(self, version: MappedVersion) -> float:
        return self._current.exchange(_Open(version, self._threads))

    def close(self) -> None:
        self._current.close()


class PlainBackend:
    """onnxruntime without pre-packing: one copy, safe everywhere."""

    name = "plain"

    def compile(self, graph: bytes, raw: RawTensors, report: Report) -> Compiled:
        from weightd.backends.onnx_edit import lay_out, lent

        report("compiling", 0, raw.buffer.nbytes)
        with _memfd("graph") as graph_fd, _memfd("data") as data_fd:
            options = _options(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
            options.intra_op_num_threads = min(_STAGER_THREADS, os.cpu_count() or 1)
            # onnxruntime writes to these paths, so straight into the memfds.
            options.optimized_model_filepath = f"/proc/self/fd/{graph_fd}"
            entries = {
                "session.optimized_model_external_initializers_file_name": str(data_fd),
                "session.optimized_model_external_initializers_min_size_in_bytes": str(
                    _MIN_EXTERNAL_NBYTES
                ),
            }
            for key, value in entries.items():
                options.add_session_config_entry(key, value)
            if raw.buffer.nbytes:
                options.add_external_initializers_from_files_in_memory(
                    [_WEIGHTS], [raw.buffer.data], [raw.buffer.nbytes]
                )
            _create(lay_out(graph, raw), options)
            optimised = os.pread(graph_fd, os.fstat(graph_fd).st_size, 0)
            lent_graph, tensors, places = lent(
                optimised, _WEIGHTS, lambda nbytes, offset: os.pread(data_fd, nbytes, offset)
            )
            return _Optimised(lent_graph, tensors, places, data_fd)

    def open(self, version: MappedVersion, *, threads: int) -> PlainSession:
        _check_stamp(version.manifest.stamp)
        return PlainSession(version, threads)


BACKEND = PlainBackend()


def _options(level: ort.GraphOptimizationLevel) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3  # errors; they also come as exceptions
    return options


def _create(graph: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _ERRORS as error:
        raise CompileError(f"onnxruntime cannot run this model: {error}") from error


def _open_session(
    version: MappedVersion, arrays: Mapping[str, Array], threads: int
) -> ort.InferenceSession:
    options = _options(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_prepacking", "1")
    # The options keep only addresses: the values live until the session is there, the arrays until
    # it is gone.
    lent = {e.name: _lend(arrays[e.name], e.dtype) for e in version.manifest.compiled}
    for name, value in lent.items():
        options.add_initializer(name, value)
    with _placeholder(max((a.nbytes for a in arrays.values()), default=0)) as folder:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", folder
        )
        return _create(version.graph(), options)


@contextmanager
def _placeholder(nbytes: int) -> Iterator[str]:
    """A folder with a sparse file that stands in for the weights; it takes no space."""
    try:
        with tempfile.TemporaryDirectory(prefix="weightd-") as folder:
            with (Path(folder) / _WEIGHTS).open("wb") as file:
                file.truncate(nbytes)
            yield folder
    except OSError as error:
        raise CompileError(
            f"onnxruntime needs a temporary folder and there is none to write to ({error}); "
            "set TMPDIR"
        ) from error


def _lend(array: Array, dtype: str) -> ort.OrtValue:
    """An OrtValue over the array's own memory."""
    number = _BFLOAT16_AND_FLOAT8.get(dtype)
    if number is None:
        return ort.OrtValue.ortvalue_from_numpy(array)
    plain = array.view("uint16" if array.itemsize == 2 else "uint8")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, number)


@contextmanager
def _memfd(name: str) -> Iterator[int]:
    fd = new_memfd(f"weightd:compile:{name}")
    try:
        yield fd
    finally:
        os.close(fd)


def _stamp() -> dict[str, str]:
    return {"onnxruntime": ort.__version__, "cpu": _cpu()}


def _check_stamp(stamp: Mapping[str, str]) -> None:
    """The optimiser chose layouts for one onnxruntime and one CPU."""
    for key, here in _stamp().items():
        made_for = stamp.get(key)
        if made_for != here:
            raise EngineMismatchError(
                f"this version was compiled for {key} {made_for} and this process has {here}; "
                "publish the model again with what the workers have"
            )


def _cpu() -> str:
    """A digest of the CPU's instruction sets."""
    with Path("/proc/cpuinfo").open("rb") as file:
        head = file.read(16_384)
    flags = [line for line in head.splitlines() if line.startswith((b"flags", b"Features"))][:1]
    return f"{platform.machine()}-{xxh3_64_hexdigest(b''.join(flags))}"
