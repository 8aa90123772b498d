"""What an engine is to weightd: compile in the stager, open in a worker, run, swap.

    stager:  compile(graph, raw tensors) -> Compiled: another graph, and the tensors it needs
    worker:  open(mapped version) -> Session: run(), swap(newer version), close()

A backend is a module with a BACKEND. It is imported when it is named, never before.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol, Self

import numpy as np

from weightd.backends.version import MappedVersion
from weightd.errors import EngineMismatchError
from weightd.weights.arena import Arena
from weightd.weights.arrays import Array
from weightd.weights.file import OnChunk
from weightd.weights.source import Source, TensorSpec

Report = Callable[[str, int, int], object]  # step, bytes done, bytes in all

_MODULES = {
    "plain": "weightd.backends.onnxruntime",
    "reference": "weightd.backends.reference",
}


class RawTensors:
    """All tensors of a source in one private buffer, by name. Freed with the object."""

    def __init__(self, source: Source, report: Report) -> None:
        self.specs: dict[str, TensorSpec] = source.tensors
        arena = Arena(start=0)
        self.offsets = {name: arena.place(spec.nbytes) for name, spec in self.specs.items()}
        self.buffer = np.empty(arena.nbytes, np.uint8)
        done = 0
        for name, spec in self.specs.items():
            source.read_into(name, self.bytes_of(name))
            done += spec.nbytes
            report("reading", done, arena.nbytes)

    def bytes_of(self, name: str) -> memoryview:
        offset = self.offsets[name]
        return self.buffer.data[offset : offset + self.specs[name].nbytes]


class Compiled(ABC):
    """What compile() made: a serialized graph, and the tensors that it names as external data.

    stamp: what a worker must have to run it. Owns what is on `_resources`, until close().
    """

    def __init__(self, graph: bytes, tensors: dict[str, TensorSpec], stamp: dict[str, str]) -> None:
        self.graph = graph
        self.tensors = tensors
        self.stamp = stamp
        self._resources = ExitStack()

    @abstractmethod
    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        """Fill `target` with a tensor's bytes; on_chunk gets each piece right after."""

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Session(Protocol):
    """An open engine in a worker. Safe to use from several threads."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Predict. The inputs are checked already; the outputs are the caller's own memory.
        PredictError when the engine fails."""

    def swap(self, version: MappedVersion) -> float:
        """Make later runs use this version; a run sees exactly one. Returns for how long runs had
        to wait, in microseconds. On any error the old version stays."""

    def close(self) -> None:
        """Let go of the version; a run that goes on finishes first."""


class Backend(Protocol):
    """One engine."""

    name: str

    def compile(self, graph: bytes, raw: RawTensors, report: Report) -> Compiled:
        """Prepare a model for sharing. CompileError when the engine cannot run it."""

    def open(self, version: MappedVersion, *, threads: int) -> Session:
        """Open a version over its shared memory. EngineMismatchError when it was compiled for
        another engine version or CPU than this process has."""


def named(name: str) -> Backend:
    """The backend of this name."""
    try:
        module = _MODULES[name]
    except KeyError:
        raise EngineMismatchError(
            f"no engine {name!r} here; this weightd has {', '.join(_MODULES)}"
        ) from None
    backend: Backend = importlib.import_module(module).BACKEND
    return backend
