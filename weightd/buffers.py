"""A model that lies in memory, as files without a name."""

import fcntl
import os
import weakref

from weightd.weights.safetensors import SEALS


class Buffers:
    """path: where the model can be opened, as long as this object lives. data: a descriptor of its
    weights, or None when they are in the model itself."""

    def __init__(self, model: bytes, weights: bytes | None) -> None:
        self._model = _Memory(model)
        self._weights = None if weights is None else _Memory(weights)
        self.path = f"/proc/self/fd/{self._model.fd}"
        self.data = None if self._weights is None else self._weights.fd


class _Memory:
    """Bytes behind a descriptor, until the end of the object."""

    def __init__(self, content: bytes) -> None:
        self.fd = os.memfd_create("weightd:buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.fd)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self.fd, rest) :]
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)


def status_of(weights: bytes | None) -> str:
    """How upstream says that a model could not be read: with its weights, or without."""
    if weights is None:
        return "Common error code. "
    return "func_graph is nullptr, failed to load MindIR model! "
