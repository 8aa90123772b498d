"""A model file opened as the stager opens it, and run by a private onnxruntime session."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from weightd.backends.onnx_edit import lay_out
from weightd.backends.raw import RawTensors
from weightd.weights.arrays import Array
from weightd.weights.source import Source, open_source


class PrivateSession:
    """A private session on a model file's graph and weights."""

    def __init__(self, source: Source) -> None:
        assert source.graph is not None
        raw = RawTensors(source, lambda *_: None)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if raw.buffer.nbytes:
            options.add_external_initializers_from_files_in_memory(
                ["weights"], [raw.buffer.data], [raw.buffer.nbytes]
            )
        self.inputs = source.inputs
        self.outputs = source.outputs
        self._session: Any = ort.InferenceSession(lay_out(source.graph, raw), options)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Inputs and outputs in the order of the ports."""
        named = {port.name: array for port, array in zip(self.inputs, inputs, strict=True)}
        found: list[Array] = self._session.run([port.name for port in self.outputs], named)
        return found


def opened(path: Path, *, weights_only: bool = False, folder: Path | None = None) -> Source:
    """The caller closes it. folder: where its external data is, if not beside it."""
    fd, folder_fd = os.open(path, os.O_RDONLY), os.open(folder or path.parent, os.O_RDONLY)
    try:
        return open_source(fd, file_name=path.name, folder_fd=folder_fd, weights_only=weights_only)
    finally:
        os.close(fd)
        os.close(folder_fd)


def private_session(path: Path) -> PrivateSession:
    with opened(path) as source:
        return PrivateSession(source)
