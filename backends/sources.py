"""What a job is staged from: one file, or the live version with some of its weights replaced."""

import re
from contextlib import ExitStack

from weightd.backends.live import LiveVersion
from weightd.backends.origin import WEIGHTS, identity_of
from weightd.backends.overlay import OverlaySource
from weightd.backends.raw import digest_of_all
from weightd.ipc.job import Job
from weightd.weights.manifest import ORIGIN, ORIGIN_WEIGHTS, Manifest
from weightd.weights.names import mapped
from weightd.weights.source import Source, TensorSpec, open_source

_COUNT = re.compile(r" \+ \d+ updated\Z")


def opened(job: Job, live: LiveVersion | None) -> tuple[Source, dict[str, str]]:
    """The job's source, and what its rules made of the file's names. The caller closes it."""
    if not job.is_overlay:
        source = _of_file(job)
        return source, _renamed(job, source, live)
    assert live is not None, "an update follows a live version"

    def open_base() -> Source:
        with ExitStack() as on_error:
            base = on_error.enter_context(_of_file(job))
            _renamed(job, base, live)
            on_error.pop_all()
            return base

    has_file = job.file_fd is not None
    overlay = OverlaySource(live, _of_update(job), open_base if has_file else None)
    return overlay, dict(live.manifest.renamed)


def updated_of(source: Source) -> tuple[str, ...]:
    """The tensors whose values are not the file's."""
    return tuple(sorted(source.updated)) if isinstance(source, OverlaySource) else ()


def said_of(job: Job, source: Source, live: Manifest | None) -> str:
    """Where the weights are from, for people."""
    if not isinstance(source, OverlaySource):
        return f"{job.file_name} ({source.format})"
    assert live is not None
    of_file = _COUNT.sub("", live.source)
    return f"{of_file} + {len(source.updated)} updated" if source.updated else of_file


def identity(job: Job, source: Source) -> str:
    """Of the job's file, before its weights are read: what is changed later is another file. ''
    where the weights are in others, or came in memory."""
    return identity_of(job.file_fd) if job.file_fd is not None and source.is_whole else ""


def origin(live: Manifest | None, here: str, digest: str) -> dict[str, str]:
    """The stamps that say what the version was made from, and the model's first one. here: the
    identity() of the job's file."""
    first = live.stamp if live is not None else {}
    return {
        WEIGHTS: digest,
        ORIGIN: first.get(ORIGIN, here),
        ORIGIN_WEIGHTS: first.get(ORIGIN_WEIGHTS, digest),
    }


def digest_of_stored(manifest: Manifest) -> str:
    """The digest of weights without a graph, from those of the tensors that were written."""
    specs = [TensorSpec(entry.name, entry.dtype, entry.shape) for entry in manifest.tensors]
    return digest_of_all(None, specs, {entry.name: entry.digest for entry in manifest.tensors})


def _of_file(job: Job) -> Source:
    assert job.file_fd is not None
    return open_source(
        job.file_fd,
        file_name=job.file_name,
        folder_fd=job.folder_fd,
        weights_only=job.weights_only,
    )


def _of_update(job: Job) -> Source | None:
    if job.update_fd is None:
        return None
    return open_source(
        job.update_fd,
        file_name=job.update_name,
        folder_fd=job.update_folder_fd,
        weights_only=True,
    )


def _renamed(job: Job, source: Source, live: LiveVersion | None) -> dict[str, str]:
    """Give the source's tensors the names that the job's rules make of them."""
    if not job.names or live is None:
        return {}
    base = live.manifest
    wanted = [parameter.name for parameter in base.parameters]
    renamed = mapped(job.names, source.tensors, wanted, base.constants)
    source.rename(renamed)
    return renamed
