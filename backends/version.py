"""A version mapped into this process: read-only arrays over sealed shared memory.

Nobody closes it: the mapping lives as long as anything refers to it, the arrays included, and when
the last one goes the daemon is told.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from weightd.backends.answer import Answer
from weightd.errors import BadManifestError, UnknownTensorError
from weightd.ipc.lease import Grant
from weightd.ipc.words import counted
from weightd.weights.arrays import Array, view
from weightd.weights.manifest import Blob, Manifest, TensorEntry, read_manifest


class MappedVersion:
    """One version's manifest and memory. data: its segments, in the manifest's order. name: the
    daemon's incarnation and the version's uid in it, which name it for ever, unlike its number."""

    def __init__(
        self, manifest: Manifest, data: Sequence[memoryview], name: tuple[str, int] = ("", 0)
    ) -> None:
        self.manifest = manifest
        self._data = data
        self.name = name

    @classmethod
    def of_grant(cls, grant: Grant, when_unmapped: Callable[[int], object]) -> Self:
        """What the daemon let this process map. Takes the grant's segments over, and calls back
        with the version's number once nothing maps it any more."""
        try:
            data = [segment.data for segment in grant.segments]
            name = (grant.incarnation, grant.uid)
            version = cls(_checked(read_manifest(data[0]), grant), data, name)
            countdown = _Countdown(len(grant.segments), grant.version, when_unmapped)
            for segment in grant.segments:
                segment.when_unmapped(countdown)
            return version
        finally:
            grant.close()  # the views keep the mappings

    @property
    def number(self) -> int:
        return self.manifest.version

    def tensor(self, name: str) -> Array:
        """A tensor of the source by its name there; UnknownTensorError when it is not held."""
        return self._array(self.manifest.find(name))

    def compiled(self) -> dict[str, Array]:
        """What the engine needs, by the compiled graph's names."""
        return {entry.name: self._array(entry) for entry in self.manifest.compiled}

    def answer(self) -> Answer | None:
        """The reference answer; None for a version that has none."""
        manifest = self.manifest
        if not manifest.reference_outputs:
            return None
        return Answer(
            {entry.name: self._array(entry) for entry in manifest.reference_inputs},
            {entry.name: self._array(entry) for entry in manifest.reference_outputs},
            is_exact=manifest.stamp.get("answer") == "exact",
        )

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


class Weights(Mapping[str, Array]):
    """One version's tensors by their names in the source file: read-only, zero-copy, C-contiguous.

    A snapshot: it stays with its version when the attachment switches. As long as it, or an array
    out of it, exists, the version stays mapped here and held by the daemon. A name that the
    engine merged, renamed or packed raises UnknownTensorError (a KeyError), which says what to do.
    """

    def __init__(self, version: MappedVersion) -> None:
        self._version = version

    @property
    def version(self) -> int:
        return self._version.number

    def __getitem__(self, name: str) -> Array:
        return self._version.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._version.manifest.tensors)

    def __len__(self) -> int:
        return len(self._version.manifest.tensors)

    def __repr__(self) -> str:
        tensors = counted(len(self), "tensor")
        return f"<weights of {self._version.manifest.model} v{self.version}: {tensors}>"


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
