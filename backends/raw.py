"""The tensors of a source in private memory: what an engine compiles from, in the stager."""

from collections.abc import Callable

import numpy as np
from xxhash import xxh3_128

from weightd.weights.arena import Arena
from weightd.weights.source import Source, TensorSpec

Report = Callable[[str, int, int], object]  # step, bytes done, bytes in all


class RawTensors:
    """All tensors of a source in one private buffer, by name. Freed with the object. digest: of
    their names, dtypes, shapes and bytes, and of the source's graph."""

    def __init__(self, source: Source, report: Report) -> None:
        self.specs: dict[str, TensorSpec] = source.tensors
        arena = Arena(start=0)
        self.offsets = {name: arena.place(spec.nbytes) for name, spec in self.specs.items()}
        self.buffer = np.empty(arena.nbytes, np.uint8)
        hasher = xxh3_128(source.graph or b"")
        done = 0
        for name, spec in self.specs.items():
            hasher.update(repr(spec).encode())
            source.read_into(name, self.bytes_of(name), hasher.update)
            done += spec.nbytes
            report("reading", done, arena.nbytes)
        self.digest = hasher.hexdigest()

    def bytes_of(self, name: str) -> memoryview:
        offset = self.offsets[name]
        return self.buffer.data[offset : offset + self.specs[name].nbytes]


def digest_of(source: Source) -> str:
    """RawTensors(source).digest, without holding the tensors: they pass through one buffer."""
    hasher = xxh3_128(source.graph or b"")
    largest = max((spec.nbytes for spec in source.tensors.values()), default=0)
    buffer = np.empty(largest, np.uint8)
    for name, spec in source.tensors.items():
        hasher.update(repr(spec).encode())
        source.read_into(name, buffer.data[: spec.nbytes], hasher.update)
    return hasher.hexdigest()
