"""What is known to be wrong in memory, and what may not be built on it.

A version is marked when something of it is wrong. What may be shared goes by segment: beside bytes
that failed others may fail, so nothing new uses a segment in which any were found.
"""

from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Version
from weightd.daemon.staging import Filled
from weightd.daemon.vault import Vault
from weightd.errors import DamagedError


def held(catalog: Catalog) -> list[tuple[str, Version]]:
    """Every version that has memory, with its model's name; those of unloaded models too that
    workers still map."""
    models = {id(lease.model): lease.model for lease in catalog.leases.values()}
    models |= {id(model): model for model in catalog.models.values()}
    return [(model.name, v) for model in models.values() for v in model.versions.values()]


def mark(catalog: Catalog, uid: int, text: str) -> list[int]:
    """Say of a version what is wrong with it. Returns the PIDs of the workers that map it."""
    for _, version in held(catalog):
        if version.uid == uid:
            version.damage = text
            catalog.revision += 1
            return sorted(catalog.leases[lease].pid for lease in version.leases)
    return []


def distrust_marked(catalog: Catalog, vault: Vault) -> None:
    """After an adoption: where in a marked version the wrong bytes are is not known any more."""
    for _, version in held(catalog):
        for index in range(len(vault.get(version.uid).segments) if version.damage else 0):
            vault.distrust(version.uid, index)


def is_damaged(catalog: Catalog, vault: Vault, name: str) -> bool:
    """Whether wrong bytes were found in a segment of the live version. Not if there is no such
    model, which the catalog says to whoever asks for it."""
    model = catalog.models.get(name)
    return model is not None and not vault.is_trusted(vault.get(model.live.uid))


def check_whole(catalog: Catalog, vault: Vault, name: str) -> None:
    """DamagedError when the live version is no ground to build on."""
    if is_damaged(catalog, vault, name):
        raise DamagedError(
            f"the live version of {name!r} uses memory in which wrong bytes were found (`weightd "
            f"status`): nothing is built on it; publish a full set of weights (`weightd publish "
            f"{name} FILE`), which shares nothing with it"
        )


def check_shared(vault: Vault, name: str, staged: Filled) -> None:
    """DamagedError when wrong bytes were found meanwhile in what a version would share."""
    if not vault.is_trusted(staged):
        raise DamagedError(
            f"wrong bytes were found meanwhile in memory that {name!r} version "
            f"{staged.manifest.version} would share; publish again, in full: it then shares nothing"
        )
