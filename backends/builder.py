"""Builds one version, in the stager: from a source file to a sealed segment.

    header page | graphs | tensors … | manifest          segment 0 of the version

Without a graph the tensors lie as they are in the file, read straight into the segment (layout
`tensors`). With one, the engine compiles and its tensors are stored (layout `compiled`); source
tensors are stored too when asked for, and those that the optimiser left alone are listed anyway,
since they cost nothing.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
from xxhash import xxh3_128

from weightd.backends.base import Compiled, RawTensors, Report, named
from weightd.errors import BadFileError, MismatchError
from weightd.ipc import memory
from weightd.ipc.protocol import Job
from weightd.ipc.segment import Segment
from weightd.weights.arena import Arena
from weightd.weights.entries import Blob, Parameter, TensorEntry
from weightd.weights.file import OnChunk
from weightd.weights.fit import check_parameters_fit, check_ports_fit
from weightd.weights.manifest import Manifest, pack_header, read_manifest
from weightd.weights.source import Source, TensorSpec, open_source

_COMPILE_COPIES = 4  # raw, the engine's own, what it saves, the segment
_PAGE_NBYTES = 4096
_NO_DIGEST = bytes(16)

ReadInto = Callable[[str, memoryview, OnChunk], None]


class _Base(NamedTuple):
    """The live version that a publish follows."""

    manifest: Manifest
    graph: bytes | None


class _Planned(NamedTuple):
    """One tensor's place, and who writes its bytes there."""

    entry: TensorEntry
    read_into: ReadInto


def build(job: Job, report: Report, allow_memory: Callable[[int], object]) -> int:
    """Fill and seal the job's segment; returns its size. Any refusal leaves it unsealed."""
    with ExitStack() as resources:
        source = resources.enter_context(
            open_source(job.file_fd, file_name=job.file_name, folder_fd=job.folder_fd)
        )
        base = _read_base(job.base_fd)
        raw_nbytes = sum(spec.nbytes for spec in source.tensors.values())
        allow_memory(raw_nbytes)
        manifest = _draft(job, source, base)
        graph = source.graph or (base.graph if base else None)
        if graph is None:
            return _Writer(job, report).write(manifest, source, None, None, None)
        memory.require(_COMPILE_COPIES * raw_nbytes, f"compiling {job.model!r}")
        raw = RawTensors(source, report)
        compiled = resources.enter_context(named(job.engine).compile(graph, raw, report))
        return _Writer(job, report).write(manifest, source, graph, raw, compiled)


def _read_base(base_fd: int | None) -> _Base | None:
    if base_fd is None:
        return None
    with Segment.adopt(os.dup(base_fd)) as segment, segment.data as data:
        manifest = read_manifest(data)
        blob = manifest.source_graph
        graph = bytes(data[blob.offset : blob.offset + blob.nbytes]) if blob else None
    return _Base(manifest, graph)


def _draft(job: Job, source: Source, base: _Base | None) -> Manifest:
    """The manifest without its places: what is said of the version, checked against the model."""
    parameters = tuple(Parameter(s.name, s.dtype, s.shape) for s in source.tensors.values())
    if base is not None:
        live = base.manifest
        check_parameters_fit(parameters, live.parameters, optional=live.constants, model=live.model)
        if source.graph is not None:
            check_ports_fit("inputs", source.inputs, live.inputs, model=live.model)
            check_ports_fit("outputs", source.outputs, live.outputs, model=live.model)
        parameters = live.parameters
    said = base.manifest if base is not None and source.graph is None else source
    has_graph = source.graph is not None or (base is not None and base.graph is not None)
    if base is not None and has_graph != (base.graph is not None):
        raise MismatchError(f"model {job.model!r} is weights without a graph; this file brings one")
    return Manifest(
        model=job.model,
        version=job.version,
        layout="compiled" if has_graph else "tensors",
        segments=(_PAGE_NBYTES,),
        tensors=(),
        inputs=said.inputs,
        outputs=said.outputs,
        parameters=parameters,
        constants=said.constants,
        source=f"{job.file_name} ({source.format})",
    )


class _Writer:
    """Places, writes and seals. One per build."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._arena = Arena()

    def write(
        self,
        draft: Manifest,
        source: Source,
        graph: bytes | None,
        raw: RawTensors | None,
        compiled: Compiled | None,
    ) -> int:
        graphs = [g for g in (graph, compiled.graph if compiled else None) if g is not None]
        blobs = [Blob(0, self._arena.place(len(g)), len(g)) for g in graphs]
        engine_tensors = self._plan(compiled.tensors, compiled.read_into) if compiled else []
        is_stored = compiled is None or self._job.keep_tensors
        stored = source.tensors if is_stored else {}
        source_tensors = self._plan(stored, source.read_into)

        segment = Segment.allocate(
            self._job.segment_fd, self._arena.nbytes, budget_nbytes=self._job.budget_nbytes
        )
        with segment.data as data:
            for blob, content in zip(blobs, graphs, strict=True):
                data[blob.offset : blob.offset + blob.nbytes] = content
            engine_entries = self._fill(data, engine_tensors)
            source_entries = self._fill(data, source_tensors)
            if raw is not None and not is_stored:
                source_entries = _unchanged(data, engine_entries, raw)
        manifest = msgspec.structs.replace(
            draft,
            segments=(segment.nbytes,),
            tensors=tuple(source_entries),
            compiled=tuple(engine_entries),
            source_graph=blobs[0] if graph is not None else None,
            graph=blobs[1] if compiled is not None else None,
            stamp=self._stamp(compiled),
        )
        return _seal(segment, manifest)

    def _plan(self, tensors: dict[str, TensorSpec], read_into: ReadInto) -> list[_Planned]:
        return [
            _Planned(
                TensorEntry(
                    name,
                    spec.dtype,
                    spec.shape,
                    0,
                    self._arena.place(spec.nbytes),
                    spec.nbytes,
                    _NO_DIGEST,
                ),
                read_into,
            )
            for name, spec in tensors.items()
        ]

    def _fill(self, data: memoryview, planned: list[_Planned]) -> list[TensorEntry]:
        entries = []
        for entry, read_into in planned:
            hasher = xxh3_128()
            target = data[entry.offset : entry.offset + entry.nbytes]
            read_into(entry.name, target, hasher.update)
            entries.append(msgspec.structs.replace(entry, digest=hasher.digest()))
            self._report("writing", entry.offset + entry.nbytes, self._arena.nbytes)
        return entries

    def _stamp(self, compiled: Compiled | None) -> dict[str, str]:
        stamp: dict[str, str] = {"engine": self._job.engine if compiled else ""}
        if compiled is not None:
            stamp |= compiled.stamp
        if self._job.keep_tensors:
            stamp["keep_tensors"] = "yes"
        return stamp


def _unchanged(data: memoryview, entries: list[TensorEntry], raw: RawTensors) -> list[TensorEntry]:
    """The compiled tensors that are source tensors still, byte for byte and under their names."""
    return [
        entry
        for entry in entries
        if entry.name in raw.specs
        and (entry.dtype, entry.shape) == raw.specs[entry.name][1:]
        and data[entry.offset : entry.offset + entry.nbytes] == raw.bytes_of(entry.name)
    ]


def _seal(segment: Segment, manifest: Manifest) -> int:
    """Append the manifest, write the header, seal. The manifest says its own segment's size, so
    the size is chosen first: a whole number of pages that leaves it room."""
    end = segment.nbytes
    probe = msgspec.structs.replace(manifest, segments=(end + 2**33,)).encode()
    total = -(-(end + len(probe) + 64) // _PAGE_NBYTES) * _PAGE_NBYTES
    raw = msgspec.structs.replace(manifest, segments=(total,)).encode()
    if end + len(raw) > total:
        raise BadFileError("the manifest outgrew the place that was kept for it")
    offset = segment.append(raw.ljust(total - end, b"\0"))
    with segment.data as data:
        header = pack_header(offset, raw)
        data[: len(header)] = header
    segment.seal()
    return total
