"""A model in the memory of one process: an ordinary onnxruntime session, with weights of its own.

The file stays open. It is read again when some weights are replaced, or when an input takes a size
that the graph declared otherwise, and must then be what it was.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Self

import numpy as np

from weightd.backends.answer import Arrays
from weightd.backends.current import Current
from weightd.backends.onnx_edit import lay_out, with_open_sizes
from weightd.backends.onnxruntime import Options, OrtSession
from weightd.backends.raw import RawTensors
from weightd.backends.threads import Threads
from weightd.errors import BadFileError, ForkedError, SourceChangedError
from weightd.weights.arrays import Array, dtype_name
from weightd.weights.entries import Parameter
from weightd.weights.fit import check_parts_fit
from weightd.weights.source import Source, open_source

OpenSizes = frozenset[tuple[str, int]]  # an input's name, and one of its axes


class Private:
    """One model file, run here alone. gpu: the number of the CUDA device to run it on. Safe from
    several threads. Owns the open file, its folder and the session, until close().

    Raises BadFileError, UnsupportedModelError, CompileError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: Threads,
        *,
        gpu: int | None = None,
        data: int | None = None,
    ) -> None:
        self._pid = os.getpid()
        self._gpu = gpu
        self._threads = threads
        self._changing = threading.Lock()
        self._updates: dict[str, Array] = {}
        self._open_sizes: OpenSizes = frozenset()
        self._digest = ""
        with ExitStack() as on_error:
            self._name, self._file_fd, self._folder_fd = _opened(Path(path), data)
            on_error.callback(self._close_files)
            with self._source() as source:
                if source.graph is None:
                    raise BadFileError(
                        f"{self._name} is weights without a graph ({source.format}): it can be "
                        "read, not run; give an ONNX or MindIR model"
                    )
                self.inputs = source.inputs
                self.outputs = source.outputs
                self._names = [port.name for port in source.outputs]
                self.parameters = source.parameters
                self.notes = source.said().notes
                session = self._built(source, {}, frozenset())
            self._current = Current(session)
            on_error.pop_all()

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Predict. The outputs are the caller's own memory; PredictError when the engine fails."""
        if self._pid != os.getpid():
            raise self._forked()
        session = self._current.get()
        if not self._threads.cores:  # the usual, without a generator's detour
            return session.run(self._names, inputs)
        with self._threads.bound():
            return session.run(self._names, inputs)

    def update(self, tensors: Mapping[str, Array]) -> None:
        """Replace some weights for every run that begins from now on; each sees the old set or the
        new one. The arrays are copied. MismatchError for a name, dtype or shape that is not the
        model's; SourceChangedError when the file, which has the others, is no longer what it was.
        Nothing is changed by an error."""
        check_parts_fit(_parameters(tensors), self.parameters, model=self._name)
        if self._pid != os.getpid():
            raise self._forked()
        with self._changing:
            updates = self._updates | {name: array.copy() for name, array in tensors.items()}
            self._rebuild(updates, self._open_sizes)
            self._updates = updates

    @contextmanager
    def open_sizes(self, sizes: OpenSizes) -> Iterator[None]:
        """Let these axes of the inputs have any size from now on, as far as the graph goes along:
        a run in the block tells. When the block fails nothing has changed."""
        if self._pid != os.getpid():
            raise self._forked()
        with self._changing:
            if sizes <= self._open_sizes:
                yield
                return
            before, wanted = self._current.get(), self._open_sizes | sizes
            self._rebuild(self._updates, wanted)
            try:
                yield
            except BaseException:
                self._current.exchange(before)
                raise
            self._open_sizes = wanted

    def close(self) -> None:
        """Let go of the weights; a run that goes on, and a change, finish first."""
        self._current.close()
        # A thread that changed it while its process forked is not in the child, to let go.
        with self._changing if self._pid == os.getpid() else nullcontext():
            self._close_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @staticmethod
    def _forked() -> ForkedError:
        """In a child a lock of the engine's may be held for ever: the parent may have been
        predicting."""
        return ForkedError(
            "this model was built before a fork, and its engine is the parent's: build it in the "
            "child"
        )

    def _rebuild(self, updates: Mapping[str, Array], sizes: OpenSizes) -> None:
        self._current.get()  # once it is closed the files are, too
        try:
            with self._source() as source:
                session = self._built(source, updates, sizes)
        except BadFileError as error:
            raise SourceChangedError(f"{self._name} cannot be read any more: {error}") from error
        self._current.exchange(session)

    def _built(self, source: Source, updates: Mapping[str, Array], sizes: OpenSizes) -> OrtSession:
        raw = RawTensors(source, lambda *_: None)
        self._digest = self._digest or raw.digest
        if raw.digest != self._digest:
            raise SourceChangedError(
                f"{self._name} has changed since the model was built from it: the weights that "
                "stay as they are would come from another set; build the model anew"
            )
        for name, array in updates.items():
            raw.bytes_of(name)[:] = array.reshape(-1).view(np.uint8).data
        assert source.graph is not None
        graph = with_open_sizes(source.graph, sizes) if sizes else source.graph
        options = Options(optimise=True, threads=self._threads)
        if self._gpu is not None:
            options.on_gpu(self._gpu)
        options.give(raw.buffer.data)
        return OrtSession(lay_out(graph, raw), options)

    def _source(self) -> Source:
        return open_source(self._file_fd, file_name=self._name, folder_fd=self._folder_fd)

    def _close_files(self) -> None:
        for fd in (self._file_fd, self._folder_fd):
            if fd >= 0:
                os.close(fd)
        self._file_fd = self._folder_fd = -1


def _parameters(tensors: Mapping[str, Array]) -> list[Parameter]:
    return [
        Parameter(name, dtype_name(array.dtype), array.shape) for name, array in tensors.items()
    ]


def _opened(path: Path, data: int | None) -> tuple[str, int, int]:
    """The file's name, and it and its folder, or the file of all its external data, as
    descriptors."""
    fds: list[int] = []
    try:
        fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        if data is None:
            fds.append(os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
        else:
            fds.append(os.dup(data))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise BadFileError(f"cannot open {path}: {error.strerror}") from error
    return os.fsencode(path.name).decode(errors="replace"), fds[0], fds[1]
