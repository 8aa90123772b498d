"""The tensors of a source in private memory: what an engine compiles from, in the stager."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from xxhash import xxh3_128

from weightd.weights.arena import Arena
from weightd.weights.file import OnChunk, copy_chunks
from weightd.weights.source import Source, TensorSpec

Report = Callable[[str, int, int], object]  # step, bytes done, bytes in all


class RawTensors:
    """All tensors of a source in one private buffer, by name. Freed with the object. digests: of
    the bytes of each; digest: of all, with names, dtypes, shapes and the source's graph."""

    def __init__(self, source: Source, report: Report) -> None:
        self.specs: dict[str, TensorSpec] = source.tensors
        arena = Arena(start=0)
        self.offsets = {name: arena.place(spec.nbytes) for name, spec in self.specs.items()}
        self.buffer = np.empty(arena.nbytes, np.uint8)
        self.digests: dict[str, bytes] = {}
        done = 0
        for name, spec in self.specs.items():
            hasher = xxh3_128()
            source.read_into(name, self.bytes_of(name), hasher.update)
            self.digests[name] = hasher.digest()
            done += spec.nbytes
            report("reading", done, arena.nbytes)
        self.digest = digest_of_all(source.graph, self.specs.values(), self.digests)

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        """As the source's, and what was read once: a file could change meanwhile."""
        copy_chunks(self.bytes_of(name), target, on_chunk)

    def bytes_of(self, name: str) -> memoryview:
        offset = self.offsets[name]
        return self.buffer.data[offset : offset + self.specs[name].nbytes]


def digest_of(source: Source) -> str:
    """RawTensors(source).digest, without holding the tensors: they pass through one buffer, as
    large as the largest of them."""
    largest = max((spec.nbytes for spec in source.tensors.values()), default=0)
    buffer = np.empty(largest, np.uint8)
    digests = {}
    for name, spec in source.tensors.items():
        hasher = xxh3_128()
        source.read_into(name, buffer.data[: spec.nbytes], hasher.update)
        digests[name] = hasher.digest()
    return digest_of_all(source.graph, source.tensors.values(), digests)


def digest_of_all(
    graph: bytes | None, specs: Iterable[TensorSpec], digests: Mapping[str, bytes]
) -> str:
    """One digest of a graph and of tensors, whose own digests are known."""
    hasher = xxh3_128(graph or b"")
    for spec in specs:
        hasher.update(repr(spec).encode())
        hasher.update(digests[spec.name])
    return hasher.hexdigest()
