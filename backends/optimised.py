"""A graph as onnxruntime runs it, saved: the first step of every compilation, in the stager."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from weightd.backends.answer import Answer, ask
from weightd.backends.base import Task
from weightd.backends.onnx_edit import lay_out
from weightd.backends.onnxruntime import Options, OrtSession
from weightd.backends.raw import RawTensors
from weightd.backends.threads import ONE
from weightd.errors import CompileError, DeadlineError, StagingError
from weightd.ipc.segment import new_memfd
from weightd.weights.file import OnChunk

_CHUNK_NBYTES = 16 * 2**20


@dataclass(frozen=True)
class Optimised:
    """What onnxruntime saved, and the private session that it did it in, with every optimisation.
    data_fd: its weights file, a memfd; whoever wants it longer than the `with` duplicates it."""

    graph: bytes
    data_fd: int
    session: OrtSession

    def answer(self, task: Task) -> Answer:
        """What the private session says; PredictError when no made-up input suits the graph,
        AnswerError when it does not repeat itself."""
        names = [port.name for port in task.outputs]
        try:
            return ask(
                task.inputs,
                partial(self.session.run_for, names, limit_s=task.answer_limit_s),
            )
        except DeadlineError as error:
            raise StagingError(
                f"the model does not end: on a small input of random numbers {error} "
                "(answer_limit_s)"
            ) from error


@contextmanager
def optimised(graph: bytes, raw: RawTensors, task: Task, *, packed: bool) -> Iterator[Optimised]:
    """Have onnxruntime optimise a graph and save it. packed: with the packed form of matrices."""
    task.report("compiling", 0, raw.buffer.nbytes)
    options = Options(optimise=True, threads=ONE)
    options.give(raw.buffer.data)
    if not packed:
        options.without_packing()  # so that its answer is, to the bit, that of a worker without
    with memfd("graph") as graph_fd, memfd("data") as data_fd:
        options.save(graph_fd, data_fd, packed=packed)
        session = OrtSession(lay_out(graph, raw), options)
        yield Optimised(read_all(graph_fd), data_fd, session)


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def read_chunks(fd: int, offset: int, target: memoryview, on_chunk: OnChunk) -> None:
    """Fill `target` from a file that onnxruntime wrote."""
    for start in range(0, len(target), _CHUNK_NBYTES):
        piece = target[start : start + _CHUNK_NBYTES]
        if os.preadv(fd, [piece], offset + start) != len(piece):
            raise CompileError("onnxruntime left its weights file incomplete")
        on_chunk(piece)


@contextmanager
def memfd(name: str) -> Iterator[int]:
    fd = new_memfd(f"weightd:compile:{name}")
    try:
        yield fd
    finally:
        os.close(fd)
