"""onnx's ReferenceEvaluator over the shared tensors: slow, exact, the oracle of the tests.

Nothing is compiled: the version holds the original graph and the original tensors, which the
evaluator gets as inputs, so it reads the shared pages.
"""

from collections.abc import Mapping

import onnx
from onnx.reference import ReferenceEvaluator

from weightd.backends.base import Compiled, Task
from weightd.backends.current import Current
from weightd.backends.onnx_edit import lay_out, weights_as_inputs
from weightd.backends.raw import RawTensors
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.errors import CompileError, PredictError
from weightd.weights.arrays import Array
from weightd.weights.file import MAX_CHUNK_NBYTES, OnChunk

# What numpy code raises on inputs that it cannot compute with.
_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, ImportError)


class _AsItIs(Compiled):
    """The graph and tensors of the source."""

    def __init__(self, graph: bytes, raw: RawTensors) -> None:
        external = {
            tensor.name
            for tensor in onnx.ModelProto.FromString(graph).graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
        tensors = {name: spec for name, spec in raw.specs.items() if name in external}
        super().__init__(lay_out(graph, raw), tensors, {})
        self._raw = raw

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        raw = self._raw.bytes_of(name)
        for start in range(0, len(target), MAX_CHUNK_NBYTES):
            piece = target[start : start + MAX_CHUNK_NBYTES]
            piece[:] = raw[start : start + MAX_CHUNK_NBYTES]
            on_chunk(piece)


class _Open:
    def __init__(self, version: MappedVersion) -> None:
        self.weights = version.compiled()
        self.output_names = [port.name for port in version.manifest.outputs]
        self.evaluator = _evaluator(version.graph())


class ReferenceSession:
    """An evaluator and the version that it reads."""

    compiled_by = engine = "reference"
    note = ""

    def __init__(self, version: MappedVersion) -> None:
        self._current = Current(_Open(version))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        current = self._current.get()
        try:
            outputs = current.evaluator.run(current.output_names, {**current.weights, **inputs})
        except _ERRORS as error:
            raise PredictError(f"the reference evaluator failed: {error}") from error
        return dict(zip(current.output_names, outputs, strict=True))

    def swap(self, version: MappedVersion) -> float:
        return self._current.exchange(_Open(version))

    def inherited(self) -> None:
        """None: nothing keeps a run from going on while the process forks."""

    def close(self) -> None:
        self._current.close()


class ReferenceBackend:
    name = "reference"

    def compile(self, graph: bytes, raw: RawTensors, task: Task) -> Compiled:
        task.report("compiling", 0, raw.buffer.nbytes)
        _evaluator(graph)  # refuses operators that it does not have
        return _AsItIs(graph, raw)

    def verify(self, version: MappedVersion, previous: MappedVersion | None) -> bool:
        """Nothing was changed, so there is nothing to compare."""
        return False

    def open(self, version: MappedVersion, *, threads: Threads) -> ReferenceSession:
        del threads  # numpy decides
        return ReferenceSession(version)


BACKEND = ReferenceBackend()


def _evaluator(graph: bytes) -> ReferenceEvaluator:
    try:
        return ReferenceEvaluator(weights_as_inputs(graph))
    except _ERRORS as error:
        raise CompileError(f"the reference evaluator cannot run this model: {error}") from error
