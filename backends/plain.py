"""onnxruntime over one shared copy, by the plain mechanism: safe everywhere, and slower.

The stager lets onnxruntime optimise the graph once and saves what came out. A worker opens that
graph with optimisation off and each weight lent to the session (add_initializer), so that the
session reads the shared pages and copies nothing:

    stager   graph + raw ──ORT_ENABLE_ALL──► optimised graph + its tensors ──► sealed segment
    worker   graph ──ORT_DISABLE_ALL, no pre-packing──► session ──reads──► mapped segment
"""

import os
from collections.abc import Mapping

from weightd.backends import onnxruntime
from weightd.backends.answer import Arrays, check
from weightd.backends.base import Compiled, Task
from weightd.backends.current import Current
from weightd.backends.lent import Lent
from weightd.backends.onnxruntime import WEIGHTS
from weightd.backends.portable import Portable
from weightd.backends.raw import RawTensors
from weightd.backends.threads import ONE, Threads
from weightd.backends.version import MappedVersion
from weightd.errors import EngineMismatchError, PredictError
from weightd.weights.arrays import Array
from weightd.weights.file import OnChunk
from weightd.weights.source import TensorSpec


class _Optimised(Compiled):
    """The optimised graph, and a memfd in which onnxruntime left its tensors."""

    def __init__(
        self, graph: bytes, tensors: dict[str, TensorSpec], places: dict[str, int], data_fd: int
    ) -> None:
        super().__init__(graph, tensors, onnxruntime.stamp())
        self._places = places
        self._data_fd = os.dup(data_fd)
        self._resources.callback(os.close, self._data_fd)

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        from weightd.backends.optimised import read_chunks

        read_chunks(self._data_fd, self._places[name], target, on_chunk)


class PlainSession:
    """A session over shared pages. A swap opens the new one aside and exchanges one reference."""

    compiled_by = "plain"

    def __init__(self, version: MappedVersion, threads: Threads) -> None:
        self._threads = threads
        self._current = Current(_opened(version, threads))

    @property
    def engine(self) -> str:
        return self._current.get().engine

    @property
    def note(self) -> str:
        return self._current.get().note

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        return self._current.get().run(inputs)

    def swap(self, version: MappedVersion) -> float:
        return self._current.exchange(_opened(version, self._threads))

    def inherited(self) -> None:
        """None: nothing keeps a run from going on while the process forks."""

    def close(self) -> None:
        self._current.close()


def _opened(version: MappedVersion, threads: Threads) -> Lent | Portable:
    try:
        onnxruntime.check_stamp(version.manifest.stamp)
    except EngineMismatchError as error:
        return Portable(version, threads, error)
    return _lent(version, threads)


def _lent(version: MappedVersion, threads: Threads) -> Lent:
    """A session on a version that PlainBackend compiled."""
    return Lent(version.graph(), version.compiled(), version.manifest.outputs, threads)


class PlainBackend:
    """onnxruntime without pre-packing: one copy, safe everywhere."""

    name = "plain"

    def compile(self, graph: bytes, raw: RawTensors, task: Task) -> Compiled:
        from weightd.backends.onnx_edit import lent
        from weightd.backends.optimised import optimised

        with optimised(graph, raw, task, packed=False) as saved:
            compiled = _Optimised(
                *lent(saved.graph, WEIGHTS, lambda n, at: os.pread(saved.data_fd, n, at)),
                saved.data_fd,
            )
            try:
                compiled.answer = saved.answer(task)
            except PredictError as error:
                compiled.stamp["note"] = f"no answer was compared: {error}"
            return compiled

    def verify(self, version: MappedVersion, previous: MappedVersion | None) -> bool:
        del previous
        answer = version.answer()
        if answer is not None:
            check(_lent(version, threads=ONE).run(answer.inputs), answer)
        return False

    def open(self, version: MappedVersion, *, threads: Threads) -> PlainSession:
        return PlainSession(version, threads)


BACKEND = PlainBackend()
