"""The live version that a publish follows, as the stager sees it: its manifest and its memory."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from xxhash import xxh3_128_digest

from weightd.errors import DamagedError
from weightd.ipc.segment import Segment
from weightd.weights.entries import Blob, TensorEntry
from weightd.weights.manifest import read_manifest


class LiveVersion:
    """Owns its mappings, not the descriptors that it is given. segments: in the manifest's order,
    number 0 holds the manifest. is_trusted: no wrong bytes were found in them."""

    def __init__(self, fds: Sequence[int], *, is_trusted: bool = True) -> None:
        self._is_trusted = is_trusted
        with ExitStack() as resources:
            self.segments = tuple(resources.enter_context(Segment.adopt(os.dup(fd))) for fd in fds)
            self._data = [segment.data for segment in self.segments]
            self.manifest = read_manifest(self._data[0])
            self._resources = resources.pop_all()

    def bytes_of(self, place: TensorEntry | Blob) -> memoryview:
        return self._data[place.segment][place.offset : place.offset + place.nbytes]

    @property
    def graph(self) -> bytes | None:
        """The original graph without its weights; None for a version without one."""
        blob = self.manifest.source_graph
        if blob is None:
            return None
        content = bytes(self.bytes_of(blob))
        is_whole = xxh3_128_digest(content) == blob.digest if blob.digest else self._is_trusted
        if not is_whole:
            raise DamagedError(
                f"the graph of {self.manifest.model!r} version {self.manifest.version} is not in "
                "memory as it was published, or nobody can tell; publish a file that has the "
                "graph, or unload the model and load it again"
            )
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()
