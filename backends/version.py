"""A version mapped into this process: read-only arrays over sealed shared memory.

Nobody closes it: the mapping lives as long as anything refers to it, the arrays included, and when
the last one goes the daemon is told.
"""

from collections.abc import Callable

from weightd.errors import BadManifestError, UnknownTensorError
from weightd.ipc.lease import Grant
from weightd.weights.arrays import Array, view
from weightd.weights.manifest import Blob, Manifest, TensorEntry, read_manifest


class MappedVersion:
    """One version's manifest and memory. Takes the grant's segments over."""

    def __init__(self, grant: Grant, when_unmapped: Callable[[int], object]) -> None:
        self.number = grant.version
        try:
            self._data = [segment.data for segment in grant.segments]
            self.manifest = _checked(read_manifest(self._data[0]), grant)
            countdown = _Countdown(len(grant.segments), grant.version, when_unmapped)
            for segment in grant.segments:
                segment.when_unmapped(countdown)
        finally:
            grant.close()  # the views keep the mappings

    def tensor(self, name: str) -> Array:
        """A tensor of the source by its name there; UnknownTensorError when it is not held."""
        return self._array(self.manifest.find(name))

    def compiled(self) -> dict[str, Array]:
        """What the engine needs, by the compiled graph's names."""
        return {entry.name: self._array(entry) for entry in self.manifest.compiled}

    def graph(self) -> bytes:
        """The compiled graph; UnknownTensorError for a version without one."""
        return self.blob(self.manifest.graph)

    def blob(self, blob: Blob | None) -> bytes:
        if blob is None:
            raise UnknownTensorError(
                f"model {self.manifest.model!r} is weights without a graph: it can be read "
                "(.weights), not run; load an ONNX file to predict"
            )
        return bytes(self._data[blob.segment][blob.offset : blob.offset + blob.nbytes])

    def _array(self, entry: TensorEntry) -> Array:
        data = self._data[entry.segment][entry.offset : entry.offset + entry.nbytes]
        return view(data, entry.dtype, entry.shape)


class _Countdown:
    """Calls back once all of a version's segments are unmapped."""

    def __init__(self, count: int, version: int, callback: Callable[[int], object]) -> None:
        self._left = count
        self._version = version
        self._callback = callback

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._callback(self._version)


def _checked(manifest: Manifest, grant: Grant) -> Manifest:
    found = (manifest.model, manifest.version, manifest.segments)
    promised = (grant.model, grant.version, tuple(s.nbytes for s in grant.segments))
    if found != promised:
        raise BadManifestError(
            f"the daemon granted {grant.model!r} version {grant.version} and sent "
            f"{manifest.model!r} version {manifest.version}"
        )
    return manifest
