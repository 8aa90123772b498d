"""Builds one version, in the stager: from a source file to a sealed segment.

Without a graph the tensors lie as they are in the file, read straight into the segment (layout
`tensors`). With one, an engine compiles, and what it made is asked the reference question before it
is sealed. Source tensors are stored too when asked for, and those that the optimiser left alone are
listed anyway, since they cost nothing.
"""

import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from weightd.backends import sources
from weightd.backends.base import Compiled, Task, named
from weightd.backends.live import LiveVersion
from weightd.backends.raw import RawTensors, Report
from weightd.backends.version import MappedVersion
from weightd.backends.writer import Unsealed, Writer
from weightd.errors import (
    AnswerError,
    BadManifestError,
    CompileError,
    MismatchError,
    PredictError,
)
from weightd.ipc import memory
from weightd.ipc.fields import AUTOMATIC
from weightd.ipc.job import Job, Staged
from weightd.weights.entries import Parameter
from weightd.weights.fit import check_parameters_fit, check_ports_fit
from weightd.weights.manifest import HEADER_NBYTES, Manifest
from weightd.weights.names import AUTO, mapped
from weightd.weights.source import Source

# Measured: the raw tensors, the engine's own two, packed and not, both forms in what it saves, and
# then the segment. Never all of them at once, hence not eight.
_COMPILE_COPIES = 7
_UNFIT = (AnswerError, BadManifestError, CompileError, PredictError)


class _Model(NamedTuple):
    """What is to be compiled, and what will be said of it. origin: stamps."""

    source: Source
    graph: bytes
    raw: RawTensors
    draft: Manifest
    task: Task
    updated: tuple[str, ...]
    origin: dict[str, str]


def build(job: Job, report: Report, allow_memory: Callable[[int], object]) -> Staged:
    """Fill and seal the job's segment. Any refusal leaves it unsealed."""
    with ExitStack() as resources:
        live = resources.enter_context(_live(job)) if job.base_fds else None
        source, renamed = sources.opened(job, live)
        resources.enter_context(source)
        here = sources.identity(job, source)
        raw_nbytes = sum(spec.nbytes for spec in source.tensors.values())
        allow_memory(raw_nbytes)
        draft = msgspec.structs.replace(_draft(job, source, live), renamed=renamed)
        updated = sources.updated_of(source)
        lent = None if job.is_alone else live  # what may be used again, or switched from in place
        writer = resources.enter_context(Writer(job, report, lent))
        graph = source.graph or (live.graph if live else None)
        if graph is None:
            unsealed = writer.fill(draft, source=source, updated=updated)
            digest = sources.digest_of_stored(unsealed.manifest)
            return writer.seal(unsealed, sources.origin(_manifest(live), here, digest))
        memory.require(_COMPILE_COPIES * raw_nbytes, f"compiling {job.model!r}")
        task = Task(draft.inputs, draft.outputs, report, job.answer_limit_s, _mapped(lent))
        raw = RawTensors(source, report)
        draft = msgspec.structs.replace(draft, parameters=_digested(draft.parameters, raw))
        if source.graph is None and live is not None:
            graph = _with_constants(graph, raw, live.manifest)
        origin = sources.origin(_manifest(live), here, raw.digest)
        return _compiled(job, writer, _Model(source, graph, raw, draft, task, updated, origin))


def _live(job: Job) -> LiveVersion:
    return LiveVersion(job.base_fds, is_trusted=not job.is_alone)


def _compiled(job: Job, writer: Writer, model: _Model) -> Staged:
    """A version by the engine that was asked for; else by the first that answers as it should."""
    *others, last = (job.engine,) if job.engine else AUTOMATIC
    notes: list[str] = []
    for engine in others:
        try:
            return _by(engine, job, writer, model, notes)
        except _UNFIT as error:
            notes.append(f"not {engine}: {error}")
        gc.collect()  # nothing of it may still map what is written anew
    return _by(last, job, writer, model, notes)


def _by(engine: str, job: Job, writer: Writer, model: _Model, notes: list[str]) -> Staged:
    """Compile, write, verify, seal. What it raises leaves the writer ready for another engine."""
    with named(engine).compile(model.graph, model.raw, model.task) as compiled:
        stamp = _stamp(engine, job, compiled, notes) | model.origin
        unsealed = writer.fill(
            model.draft,
            source=model.source,
            graph=model.graph,
            raw=model.raw,
            compiled=compiled,
            reference=compiled.answer[:2] if compiled.answer else ({}, {}),
            updated=model.updated,
        )
    model.task.report("verifying", 0, model.raw.buffer.nbytes)
    try:
        live = model.task.live
        if _verify(engine, unsealed, stamp, live) and live is not None:
            stamp["switch"] = str(live.number)  # sessions may switch from and to it in place
    except _UNFIT as error:
        fault = type(error)(str(error))  # without the traceback, which keeps what is mapped
    else:
        return writer.seal(unsealed, stamp)
    gc.collect()
    writer.discard(unsealed)
    raise fault


def _verify(
    engine: str, unsealed: Unsealed, stamp: dict[str, str], live: MappedVersion | None
) -> bool:
    manifest = msgspec.structs.replace(unsealed.manifest, stamp=stamp)
    version = MappedVersion(manifest, [segment.data for segment in unsealed.segments])
    is_followed = live is not None and live.manifest.stamp["engine"] == engine
    return named(engine).verify(version, live if is_followed else None)


def _stamp(engine: str, job: Job, compiled: Compiled, notes: list[str]) -> dict[str, str]:
    """asked: the engine that later versions are to be compiled for."""
    stamp = {**compiled.stamp, "engine": engine, "asked": job.engine}
    if compiled.answer is not None:
        stamp["answer"] = "exact" if compiled.answer.is_exact else "near"
        stamp["answer_threads"] = "1"
    if note := "; ".join(filter(None, [*notes, compiled.stamp.get("note", "")])):
        stamp["note"] = note
    if job.kept_for:
        stamp["kept_for"] = job.kept_for
    return stamp


def _manifest(live: LiveVersion | None) -> Manifest | None:
    return None if live is None else live.manifest


def _digested(parameters: tuple[Parameter, ...], raw: RawTensors) -> tuple[Parameter, ...]:
    """With the digests of what was read, to know it again."""
    return tuple(
        msgspec.structs.replace(parameter, digest=raw.digests.get(parameter.name, b""))
        for parameter in parameters
    )


def _with_constants(graph: bytes, raw: RawTensors, live: Manifest) -> bytes:
    """The live version's graph with the constants that were brought anew, for versions after this
    one that leave them out."""
    old = {parameter.name: parameter.digest for parameter in live.parameters}
    changed = [n for n in live.constants if n in raw.digests and raw.digests[n] != old[n]]
    if not changed:
        return graph
    from weightd.backends.onnx_edit import with_constants  # onnx is large

    return with_constants(graph, {name: raw.bytes_of(name) for name in changed})


def _mapped(live: LiveVersion | None) -> MappedVersion | None:
    if live is None:
        return None
    return MappedVersion(live.manifest, [segment.data for segment in live.segments])


def _check_fit(job: Job, parameters: tuple[Parameter, ...], base: Manifest) -> None:
    """MismatchError, which says so where a rule would help."""
    try:
        check_parameters_fit(parameters, base.parameters, optional=base.constants, model=base.model)
    except MismatchError as error:
        if job.names or not _fits_by_auto(parameters, base):
            raise
        raise MismatchError(
            f"{error}; the names differ by a rule: see it with --map auto --dry-run"
        ) from None


def _fits_by_auto(parameters: tuple[Parameter, ...], base: Manifest) -> bool:
    wanted = [parameter.name for parameter in base.parameters]
    try:
        names = mapped([AUTO], [p.name for p in parameters], wanted, base.constants)
        renamed = [
            msgspec.structs.replace(p, name=names[p.name]) for p in parameters if names[p.name]
        ]
        check_parameters_fit(renamed, base.parameters, optional=base.constants, model=base.model)
    except MismatchError:
        return False
    return True


def _draft(job: Job, source: Source, live: LiveVersion | None) -> Manifest:
    """The manifest without its places: what is said of the version, checked against the model."""
    parameters = source.parameters
    base = live.manifest if live is not None else None
    if base is not None:
        _check_fit(job, parameters, base)
        if source.graph is not None:
            check_ports_fit("inputs", source.inputs, base.inputs, model=base.model)
            check_ports_fit("outputs", source.outputs, base.outputs, model=base.model)
        parameters = base.parameters
    said = base if base is not None and source.graph is None else source
    has_graph = source.graph is not None or (base is not None and base.source_graph is not None)
    if base is not None and has_graph != (base.source_graph is not None):
        raise MismatchError(f"model {job.model!r} is weights without a graph; this file brings one")
    return Manifest(
        model=job.model,
        version=job.version,
        layout="compiled" if has_graph else "tensors",
        segments=(HEADER_NBYTES,),
        tensors=(),
        inputs=said.inputs,
        outputs=said.outputs,
        parameters=parameters,
        constants=said.constants,
        source=sources.said_of(job, source, base),
    )
