"""A version's weights as a source, some of them replaced: what an update is staged from.

Each tensor comes from the first of these that has it:

    what the update brings
    the memory of the live version     layout `tensors`, kept tensors, or what the engine left alone
    the file that version came from    read again, and compared with the digest that it had then
"""

from collections.abc import Callable
from contextlib import ExitStack

from xxhash import xxh3_128

from weightd.backends.live import LiveVersion
from weightd.errors import (
    BadFileError,
    MismatchError,
    SourceChangedError,
    UnsupportedModelError,
)
from weightd.weights.entries import Parameter
from weightd.weights.file import OnChunk, copy_chunks
from weightd.weights.fit import check_parts_fit
from weightd.weights.source import Source, TensorSpec


class OverlaySource(Source):
    """Owns `brought` and what open_base() gives, not the live version. brought: None when nothing
    is replaced. open_base: opens the file, which is done only if it is needed; None when the live
    version's weights came in memory.

    MismatchError when what is brought does not fit the model, or a tensor is nowhere to be had;
    SourceChangedError when the file is not what it was.
    """

    format = "update"

    def __init__(
        self, live: LiveVersion, brought: Source | None, open_base: Callable[[], Source] | None
    ) -> None:
        manifest = live.manifest
        self._live = live
        self._brought = brought
        self._base: Source | None = None
        self._held = {entry.name: entry for entry in manifest.tensors}
        self._digests = {p.name: p.digest for p in manifest.parameters}
        self._in_file = {}
        self._is_closed = False
        self.graph, self.inputs, self.outputs, self.constants = None, (), (), ()
        with ExitStack() as on_error:
            if brought is not None:
                on_error.enter_context(brought)
                check_parts_fit(brought.parameters, manifest.parameters, model=manifest.model)
            if any(self._is_in_file(p) for p in manifest.parameters) and open_base is not None:
                self._base = on_error.enter_context(self._opened(open_base))
            self.tensors = {
                p.name: TensorSpec(p.name, p.dtype, p.shape)
                for p in manifest.parameters
                if self._is_here(p)
            }
            self._resources = on_error.pop_all()

    @property
    def file_name(self) -> str:
        return f"the update of {self._live.manifest.model!r}"

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True
        super().close()

    @property
    def updated(self) -> frozenset[str]:
        """The names whose values are not the file's: of this update, and of those before."""
        brought = self._brought.tensors.keys() if self._brought is not None else ()
        return frozenset((*self._live.manifest.updated, *brought))

    def _is_brought(self, name: str) -> bool:
        return self._brought is not None and name in self._brought.tensors

    def _is_in_file(self, parameter: Parameter) -> bool:
        """Whether only the file has it. A constant that came with none lies in the graph."""
        is_elsewhere = self._is_brought(parameter.name) or parameter.name in self._held
        return bool(parameter.digest) and not is_elsewhere

    def _opened(self, open_base: Callable[[], Source]) -> Source:
        try:
            return open_base()
        except (BadFileError, MismatchError, UnsupportedModelError) as error:
            raise self._changed(str(error)) from error

    def _is_here(self, parameter: Parameter) -> bool:
        """Whether the tensor can be had; else it is a constant, and lies in the graph."""
        name = parameter.name
        if not self._is_in_file(parameter):
            return self._is_brought(name) or name in self._held
        if self._base is not None:
            spec = self._base.tensors.get(name)
            if spec is not None and spec[1:] == (parameter.dtype, parameter.shape):
                return True
            raise self._changed(f"it has no {name!r} of that dtype and shape now")
        model = self._live.manifest.model
        raise MismatchError(
            f"tensor {name!r} of model {model!r} is not among what the update brings, and cannot "
            "be read again: the engine packed it, and the weights did not come from a file that is "
            f"still there. Publish a full set (`weightd publish {model} FILE`), or load the model "
            "with --keep-tensors"
        )

    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        if self._brought is not None and self._is_brought(spec.name):
            self._brought.read_into(spec.name, target, on_chunk)
        elif spec.name in self._held:
            copy_chunks(self._live.bytes_of(self._held[spec.name]), target, on_chunk)
        else:
            self._read_again(spec, target, on_chunk)

    def _read_again(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        assert self._base is not None
        hasher = xxh3_128()

        def pass_on(piece: memoryview) -> None:
            hasher.update(piece)
            if on_chunk is not None:
                on_chunk(piece)

        try:
            self._base.read_into(spec.name, target, pass_on)
        except BadFileError as error:
            raise self._changed(str(error)) from error
        if hasher.digest() != self._digests[spec.name]:
            raise self._changed(f"{spec.name!r} has other values")

    def _changed(self, why: str) -> SourceChangedError:
        manifest = self._live.manifest
        return SourceChangedError(
            f"the file that version {manifest.version} of model {manifest.model!r} was made from "
            f"({manifest.source}) has changed since: {why}. Publish a full set "
            f"(`weightd publish {manifest.model} FILE`)"
        )
