"""Versions built in the test's own process, as a stager builds them, and mapped, as a worker maps
them: for what needs neither a daemon nor a socket."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from weightd.backends.builder import build
from weightd.backends.version import MappedVersion
from weightd.ipc.fields import Engine
from weightd.ipc.job import Job
from weightd.ipc.segment import Segment, new_memfd, reopen_read_only
from weightd.weights.manifest import read_manifest


class Built:
    """A sealed version. fds: its segments, the newest first."""

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds

    def map(self) -> MappedVersion:
        """Mapped anew; the caller lets go of it."""
        segments = [Segment.adopt(os.dup(fd)) for fd in self.fds]
        data = [segment.data for segment in segments]
        for segment in segments:
            segment.close()
        return MappedVersion(read_manifest(data[0]), data)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@contextmanager
def built(
    model: onnx.ModelProto | Path,
    *,
    engine: Engine = "",
    live: Built | None = None,
    keep_tensors: bool = False,
    answer_limit_s: float = 60.0,
) -> Iterator[Built]:
    """Build a version; live: the one that it follows. Whatever the builder refuses is raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = model if isinstance(model, Path) else Path(folder) / "model.onnx"
        if isinstance(model, onnx.ModelProto):
            path.write_bytes(model.SerializeToString())
        segment_fd = new_memfd("weightd:test")
        file_fd = os.open(path, os.O_RDONLY)
        number = live.map().number + 1 if live else 1
        job = Job(
            model="m",
            version=number,
            file_name=path.name,
            engine=engine,
            keep_tensors=keep_tensors,
            file_fd=file_fd,
            folder_fd=None,
            segment_fd=segment_fd,
            base_fds=tuple(live.fds) if live else (),
            budget_nbytes=None,
            cpu_s=1000,
            answer_limit_s=answer_limit_s,
        )
        try:
            staged = build(job, lambda *_: None, lambda _: None)
            shared = [os.dup(live.fds[i]) for i in staged.base_segments] if live else []
            version = Built([reopen_read_only(segment_fd), *shared])
        finally:
            os.close(segment_fd)
            os.close(file_fd)
        try:
            yield version
        finally:
            version.close()
