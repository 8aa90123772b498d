"""What the daemon tells of itself: its models, versions and workers, as the parts of a status."""

from collections.abc import Mapping

from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Lease, Model, Version
from weightd.daemon.policy import Policy
from weightd.daemon.vault import Vault
from weightd.ipc.protocol import Live
from weightd.ipc.status import ModelStatus, VersionStatus, WorkerStatus
from weightd.ipc.words import counted


def model_status(model: Model, rules: Policy, vault: Vault) -> ModelStatus:
    """rules: those in force for it."""
    manifest = vault.get(model.live.uid).manifest
    return ModelStatus(
        name=model.name,
        owner_uid=model.owner_uid,
        live=model.live.number,
        layout=manifest.layout,
        engine=manifest.stamp.get("engine", ""),
        note=_note(manifest.stamp),
        source=manifest.source,
        nbytes=vault.nbytes_of(v.uid for v in model.versions.values()),
        versions=tuple(_version_status(v, vault) for v in model.versions.values()),
        allowed_pids=tuple(model.allowed_pids()),
        allow=tuple(dict.fromkeys(map(str, rules.allow))),  # in the settings, and given again
        deny=tuple(dict.fromkeys(map(str, rules.deny))),
    )


def worker_status(lease: Lease, since_unix_s: float) -> WorkerStatus:
    return WorkerStatus(
        pid=lease.pid,
        uid=lease.uid,
        model=lease.model.name,
        version=lease.version,
        since_unix_s=since_unix_s,
        switches=lease.switches,
        last_pause_us=lease.last_pause_us,
        lag=lease.lag,
        engine=lease.engine,
        note=lease.note,
        by=str(lease.by or "pid"),
    )


def outcome_of(catalog: Catalog, vault: Vault, name: str, once: int) -> Live | None:
    """What came of the request for this model with this number, if it was carried out already. The
    version may have been replaced since, and freed: then only its number is known."""
    number = catalog.done.version(once, name)
    if number is None:
        return None
    model = catalog.models.get(name)
    version = model.versions.get(number) if model else None
    if version is None:
        return Live(name, number, 0)
    filled = vault.get(version.uid)
    return Live(name, number, filled.nbytes, filled.manifest.renamed)


def one_line_of(catalog: Catalog, vault: Vault) -> str:
    """What `systemctl status` shows."""
    models = catalog.models.values()
    versions = sum(len(model.versions) for model in models)
    return (
        f"{counted(len(models), 'model')}, {counted(versions, 'version')}, "
        f"{vault.nbytes / 2**20:,.0f} MiB shared, {counted(len(catalog.leases), 'worker')}"
    )


def _version_status(version: Version, vault: Vault) -> VersionStatus:
    return VersionStatus(
        number=version.number,
        state=version.state.name,
        nbytes=vault.get(version.uid).nbytes,
        shared_nbytes=vault.shared_nbytes(version.uid),
        leases=len(version.leases),
        damage=version.damage,
    )


def _note(stamp: Mapping[str, str]) -> str:
    """What people should know of a version."""
    notes = [stamp.get("note", "")]
    if whom := stamp.get("kept_for"):
        notes.append(f"original tensors are kept, until the model is unloaded, for {whom}")
    return "; ".join(filter(None, notes))
