"""Writes one version into the job's memfd, in the stager, in two steps.

    fill()  places and writes graphs and tensors ── Unsealed: all but the manifest is there
    seal()  appends the manifest, writes the header, makes the memory read-only for ever

Between the two whoever compiled may try what was written, and discard() it to begin anew.

    header page | graphs | compiled tensors | source tensors | reference answer | copies | manifest

What the live version of a publish has already is not written: the manifest points there (see
filling.py). Copies are of what it has in segments that are not worth keeping for so little.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

import msgspec
import numpy as np
from xxhash import xxh3_128_digest

from weightd.backends.base import Compiled, Inside
from weightd.backends.filling import Filling, ReadInto
from weightd.backends.live import LiveVersion
from weightd.backends.raw import RawTensors, Report
from weightd.errors import BadFileError
from weightd.ipc import memory
from weightd.ipc.job import Job, Staged
from weightd.ipc.segment import Segment
from weightd.weights.arena import PAGE_NBYTES, Arena
from weightd.weights.arrays import Array, are_equal, dtype_name
from weightd.weights.entries import TensorEntry
from weightd.weights.file import OnChunk
from weightd.weights.manifest import Manifest, pack_header
from weightd.weights.names import STAMP, rules_text
from weightd.weights.source import Source, TensorSpec

Arrays = Mapping[str, Array]
Entries = tuple[TensorEntry, ...]


@dataclass(frozen=True)
class Unsealed:
    """A version that is written and can still be discarded. The writer's.

    manifest: as it will be, but for the size of segment 0, whose end is to come. segments: in the
    manifest's order; number 0 is new and writable, the others are the live version's, where
    `base_segments` are their numbers. No view of number 0 may be left when it is sealed or
    discarded.
    """

    manifest: Manifest
    segments: tuple[Segment, ...]
    base_segments: tuple[int, ...]

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(segment.fileno() for segment in self.segments)


class _Stored(NamedTuple):
    """Source tensors that the version keeps as they are."""

    specs: Mapping[str, TensorSpec]
    read_into: ReadInto


@dataclass(frozen=True)
class _Part:
    """One list of the manifest: what goes in, who brings the bytes, what the live version has."""

    specs: Mapping[str, TensorSpec]
    read_into: ReadInto
    old: Entries


class Writer:
    """One job's memfd. live: the version that is followed, whose owner is the caller. Owns what is
    not sealed yet, until it is closed."""

    def __init__(self, job: Job, report: Report, live: LiveVersion | None) -> None:
        self._job = job
        self._report = report
        self._live = live
        self._resources = ExitStack()

    def fill(  # noqa: PLR0913 - each is a part
        self,
        draft: Manifest,
        *,
        source: Source,
        graph: bytes | None = None,
        raw: RawTensors | None = None,
        compiled: Compiled | None = None,
        reference: tuple[Arrays, Arrays] = ({}, {}),
        updated: tuple[str, ...] = (),
    ) -> Unsealed:
        """Write everything but the manifest.

        draft: what is said of the version. graph: the source's; raw: its tensors in memory;
        compiled: what an engine made of both. reference: inputs and the outputs that they must
        give, by the names of the ports. updated: tensors that updates brought, which a compiled
        version stores beside what the engine made of them.
        """
        is_stored = compiled is None or self._job.keep_tensors
        stored = source.tensors if is_stored else {n: source.tensors[n] for n in updated}
        read_into = source.read_into if raw is None else raw.read_into
        parts = self._parts(_Stored(stored, read_into), compiled, reference)
        graphs = [g for g in (graph, compiled.graph if compiled else None) if g is not None]
        segment = self._reserve(graphs, parts)
        filling = Filling(segment, self._live, self._job.budget_nbytes)
        old = self._live.manifest if self._live else draft
        blobs = [
            filling.add_blob(content, there)
            for content, there in zip(graphs, (old.source_graph, old.graph), strict=False)
        ]
        lists = self._add(filling, parts)
        filling.settle([*blobs, *(entry for entries in lists for entry in entries)])
        blobs = [filling.final(blob) for blob in blobs]
        engine, tensors, inputs, outputs = (tuple(map(filling.final, part)) for part in lists)
        if raw is not None and not is_stored:
            tensors += _unchanged(filling, engine, raw, compiled.inside if compiled else {}, stored)
        segment.cut(filling.nbytes)
        sizes = self._live.manifest.segments if self._live else ()
        manifest = msgspec.structs.replace(
            draft,
            segments=(segment.nbytes, *(sizes[index] for index in filling.shared)),
            tensors=tensors,
            compiled=engine,
            reference_inputs=inputs,
            reference_outputs=outputs,
            updated=updated,
            source_graph=blobs[0] if graph is not None else None,
            graph=blobs[1] if compiled is not None else None,
            stamp=self._stamp(compiled),
        )
        older = self._live.segments if self._live else ()
        segments = (segment, *(older[index] for index in filling.shared))
        return Unsealed(manifest, segments, filling.shared)

    def discard(self, unsealed: Unsealed) -> None:
        """Give the new memory back. fill() may be called again."""
        unsealed.segments[0].empty()

    def seal(self, unsealed: Unsealed, stamp: Mapping[str, str] | None = None) -> Staged:
        """Append the manifest, `stamp` added to its own, write the header, and seal.

        The manifest says its own segment's size, so the size is chosen first: a whole number of
        pages that leaves it room.
        """
        segment, manifest = unsealed.segments[0], unsealed.manifest
        manifest = msgspec.structs.replace(manifest, stamp=manifest.stamp | dict(stamp or {}))
        end = segment.nbytes
        probe = _sized(manifest, end + 2**33).encode()
        total = -(-(end + len(probe) + 64) // PAGE_NBYTES) * PAGE_NBYTES
        raw = _sized(manifest, total).encode()
        if end + len(raw) > total:
            raise BadFileError("the manifest outgrew the place that was kept for it")
        offset = segment.append(raw.ljust(total - end, b"\0"))
        with segment.data as data:
            header = pack_header(offset, raw)
            data[: len(header)] = header
        segment.seal()
        return Staged(total, unsealed.base_segments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()

    def _parts(
        self, stored: "_Stored", compiled: Compiled | None, reference: tuple[Arrays, Arrays]
    ) -> list[_Part]:
        """The manifest's four lists, in the order in which they are written."""
        old = self._live.manifest if self._live else None
        inputs, outputs = reference
        return [
            _Part(compiled.tensors, compiled.read_into, old.compiled if old else ())
            if compiled
            else _NOTHING,
            _Part(stored.specs, stored.read_into, old.tensors if old else ()),
            _part_of(inputs, old.reference_inputs if old else ()),
            _part_of(outputs, old.reference_outputs if old else ()),
        ]

    def _reserve(self, graphs: Iterable[bytes], parts: Iterable[_Part]) -> Segment:
        """A segment with room for everything. Without a live version it is all needed, and asked
        for at once."""
        arena = Arena()
        sizes = [len(graph) for graph in graphs]
        sizes += [spec.nbytes for part in parts for spec in part.specs.values()]
        for nbytes in sizes:
            arena.place(nbytes)
        room = arena.nbytes
        if self._live is None:
            memory.require(room, f"a segment of {room} bytes", self._job.budget_nbytes)
        else:
            room += PAGE_NBYTES * len(sizes)  # copies come last, in another order
        return self._resources.enter_context(Segment.reserve(os.dup(self._job.segment_fd), room))

    def _add(self, filling: Filling, parts: Iterable[_Part]) -> list[list[TensorEntry]]:
        total = sum(spec.nbytes for part in parts for spec in part.specs.values())
        done = 0
        lists: list[list[TensorEntry]] = []
        for part in parts:
            old = {entry.name: entry for entry in part.old}
            entries: list[TensorEntry] = []
            for spec in part.specs.values():
                entries.append(filling.add(spec, part.read_into, old.get(spec.name)))
                done += spec.nbytes
                self._report("writing", done, total)
            lists.append(entries)
        return lists

    def _stamp(self, compiled: Compiled | None) -> dict[str, str]:
        """The engine is the job's, unless what was compiled says which other one it is for."""
        stamp: dict[str, str] = {"engine": self._job.engine if compiled else ""}
        if compiled is not None:
            stamp |= compiled.stamp
        if self._job.keep_tensors:
            stamp["keep_tensors"] = "yes"
        if self._job.names:
            stamp[STAMP] = rules_text(self._job.names)
        if self._job.weights_only:
            stamp["weights_only"] = "yes"
        return stamp


def _read_nothing(name: str, target: memoryview, on_chunk: OnChunk) -> None:
    raise AssertionError(name)


_NOTHING = _Part({}, _read_nothing, ())


def _part_of(arrays: Arrays, old: Entries) -> _Part:
    def read_into(name: str, target: memoryview, on_chunk: OnChunk) -> None:
        target[:] = arrays[name].reshape(-1).view(np.uint8).data
        on_chunk(target)

    specs = {name: TensorSpec(name, dtype_name(a.dtype), a.shape) for name, a in arrays.items()}
    return _Part(specs, read_into, old)


def _sized(manifest: Manifest, nbytes: int) -> Manifest:
    """The manifest of a segment 0 of this size."""
    return msgspec.structs.replace(manifest, segments=(nbytes, *manifest.segments[1:]))


def _unchanged(
    filling: Filling,
    entries: Entries,
    raw: RawTensors,
    inside: Mapping[str, Inside],
    stored: Collection[str],
) -> Entries:
    """The compiled tensors, and parts of them, that are source tensors still, byte for byte and
    under their names; without those that are stored by themselves."""
    by_name = {entry.name: entry for entry in entries}
    found = [
        _within(by_name[inside[name].piece], spec, inside[name].offset)
        if name in inside
        else by_name.get(name)
        for name, spec in raw.specs.items()
        if name not in stored
    ]
    return tuple(
        _with_digest(entry, filling.bytes_of(entry))
        for entry in found
        if entry is not None
        and (entry.dtype, entry.shape) == raw.specs[entry.name][1:]
        and are_equal(filling.bytes_of(entry), raw.bytes_of(entry.name))
    )


def _within(piece: TensorEntry, spec: TensorSpec, offset: int) -> TensorEntry:
    return msgspec.structs.replace(
        piece,
        name=spec.name,
        dtype=spec.dtype,
        shape=spec.shape,
        offset=piece.offset + offset,
        nbytes=spec.nbytes,
        digest=b"",
    )


def _with_digest(entry: TensorEntry, data: memoryview) -> TensorEntry:
    if entry.digest:
        return entry
    return msgspec.structs.replace(entry, digest=xxh3_128_digest(data))
