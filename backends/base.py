"""What an engine is to weightd: compile and verify in the stager, open in a worker, run, swap.

    stager:  compile(graph, raw tensors) -> Compiled: another graph, and the tensors it needs
             verify(written version)     -> it answers as a private session does, or AnswerError
    worker:  open(mapped version)        -> Session: run(), swap(newer version), close()

A backend is a module with a BACKEND. It is imported when it is named, never before.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple, Protocol, Self

from weightd.backends.answer import Answer
from weightd.backends.raw import RawTensors, Report
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.errors import EngineMismatchError
from weightd.weights.arrays import Array
from weightd.weights.entries import Port
from weightd.weights.file import OnChunk
from weightd.weights.source import TensorSpec

_MODULES = {
    "prepacked": "weightd.backends.prepacked",
    "plain": "weightd.backends.plain",
    "reference": "weightd.backends.reference",
}


class Task(NamedTuple):
    """What there is to know besides a graph and its weights. answer_limit_s: how long one run on
    made-up inputs may take. live: the version that this one is to follow."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    report: Report
    answer_limit_s: float
    live: MappedVersion | None


class Inside(NamedTuple):
    """Where a weight lies: so many bytes into a compiled tensor."""

    piece: str
    offset: int


class Compiled(ABC):
    """What compile() made: a serialized graph, and the tensors that it names as external data.

    stamp: what a worker must have to run it. answer: what a private session said, None when it
    could not be asked. inside: weights that lie inside one of the tensors. Owns what is on
    `_resources`, until close().
    """

    answer: Answer | None = None
    inside: Mapping[str, Inside] = {}

    def __init__(self, graph: bytes, tensors: dict[str, TensorSpec], stamp: dict[str, str]) -> None:
        self.graph = graph
        self.tensors = tensors
        self.stamp = stamp
        self._resources = ExitStack()

    @abstractmethod
    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        """Fill `target` with a tensor's bytes, in order, in pieces of at most MAX_CHUNK_NBYTES;
        on_chunk gets each right after."""

    def close(self) -> None:
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Session(Protocol):
    """An open engine in a worker. Safe to use from several threads.

    compiled_by: the engine whose versions it takes; engine: which one runs now; note: why it is
    not that one.
    """

    compiled_by: str

    @property
    def engine(self) -> str: ...

    @property
    def note(self) -> str: ...

    def inherited(self) -> "Session | None":
        """In a forked child: a session over what is open here; None where that is not safe."""

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

    def compile(self, graph: bytes, raw: RawTensors, task: Task) -> Compiled:
        """Prepare a model for sharing. CompileError when the engine cannot run it."""

    def verify(self, version: MappedVersion, previous: MappedVersion | None) -> bool:
        """Open what was written, as a worker does, and ask it the reference question. AnswerError
        when it says something else. Returns whether sessions may switch between the two in place;
        where not, workers open the version anew."""

    def open(self, version: MappedVersion, *, threads: Threads) -> Session:
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
