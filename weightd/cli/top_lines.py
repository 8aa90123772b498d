"""Two readings of a daemon as what `weightd top` shows: lines, sorted, with rates. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from weightd.ipc.counts import Counts
from weightd.ipc.status import ModelStatus, StagingStatus, WorkerStatus
from weightd.readings import Reading


@dataclass(frozen=True)
class DaemonLine:
    """cpu_percent: of one core, since the reading before; None without one."""

    pid: int
    version: str
    uptime_s: float
    resident_nbytes: int
    cpu_percent: float | None
    held_nbytes: int
    budget_nbytes: int | None
    saved_nbytes: int
    attaches_per_s: float | None
    switches_per_s: float | None


@dataclass(frozen=True)
class ModelLine:
    """versions: number and state of each; publishes_per_s counts what got a new number."""

    name: str
    live: int
    versions: tuple[str, ...]
    nbytes: int
    workers: int
    lagging: int
    publishes_per_s: float | None
    engine: str
    note: str


@dataclass(frozen=True)
class RefusalLine:
    """Refusals on one plane with one error."""

    plane: str
    reason: str
    total: int
    per_s: float | None


@dataclass(frozen=True)
class Lines:
    """What is shown, the most important first."""

    daemon: DaemonLine
    models: tuple[ModelLine, ...]
    workers: tuple[WorkerStatus, ...]
    staging: tuple[StagingStatus, ...]
    refusals: tuple[RefusalLine, ...]


def lines(now: Reading, before: Reading | None) -> Lines:
    """before: the reading that rates are counted from; of another life of the daemon, or None,
    there are none."""
    if before is not None and before.status.incarnation != now.status.incarnation:
        before = None
    models = (_model(model, now, before) for model in now.status.models.values())
    return Lines(
        daemon=_daemon(now, before),
        models=tuple(sorted(models, key=lambda m: (-m.nbytes, m.name))),
        workers=tuple(sorted(now.status.workers, key=_behind_first)),
        staging=now.status.staging,
        refusals=tuple(sorted(_refusals(now, before), key=_fastest_first)),
    )


def _behind_first(worker: WorkerStatus) -> tuple[bool, str, int]:
    return not worker.lag, worker.model, worker.pid


def _fastest_first(line: RefusalLine) -> tuple[float, int]:
    return -(line.per_s or 0.0), -line.total


def _daemon(now: Reading, before: Reading | None) -> DaemonLine:
    status = now.status
    cpu = _rate(now, before, now.counts.cpu_s, before.counts.cpu_s if before else 0)
    return DaemonLine(
        pid=status.pid,
        version=status.version,
        uptime_s=status.uptime_s,
        resident_nbytes=now.counts.resident_nbytes,
        cpu_percent=None if cpu is None else 100 * cpu,
        held_nbytes=status.held_nbytes,
        budget_nbytes=status.budget_nbytes,
        saved_nbytes=now.saved_nbytes,
        attaches_per_s=_event_rate("attached", now, before),
        switches_per_s=_event_rate("switched", now, before),
    )


def _model(model: ModelStatus, now: Reading, before: Reading | None) -> ModelLine:
    was = before.status.models.get(model.name) if before else None
    rate = None
    if before is not None:
        rate = _rate(now, before, _last_number(model), _last_number(was) if was else 0)
    return ModelLine(
        name=model.name,
        live=model.live,
        versions=tuple(f"{v.number} {v.state.lower()}" for v in model.versions),
        nbytes=model.nbytes,
        workers=now.leases[model.name],
        lagging=now.lagging[model.name],
        publishes_per_s=rate,
        engine=model.engine,
        note=model.note,
    )


def _last_number(model: ModelStatus) -> int:
    return max(version.number for version in model.versions)


def _refusals(now: Reading, before: Reading | None) -> Iterator[RefusalLine]:
    for plane, by_reason in now.counts.refusals.items():
        for reason, total in by_reason.items():
            was = _refused(before.counts, plane, reason) if before else 0
            yield RefusalLine(plane, reason, total, _rate(now, before, total, was))


def _refused(counts: Counts, plane: str, reason: str) -> int:
    return counts.refusals.get(plane, {}).get(reason, 0)


def _event_rate(event: str, now: Reading, before: Reading | None) -> float | None:
    was = before.counts.events.get(event, 0) if before else 0
    return _rate(now, before, now.counts.events.get(event, 0), was)


def _rate(now: Reading, before: Reading | None, value: float, was: float) -> float | None:
    """A second. Less than before (a model that was loaded anew): 0."""
    if before is None or now.at_s <= before.at_s:
        return None
    return max(0.0, value - was) / (now.at_s - before.at_s)
