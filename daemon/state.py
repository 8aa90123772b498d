"""The daemon's state as its successor gets it: which versions there are, in which memory, and who
may attach. Plain data; the bytes of the weights are not in it.

What lives in a successor too is written down here and nowhere else. Leases do not: they are
connections, and workers come back by themselves.
"""

from typing import Literal

import msgspec

from weightd.daemon.catalog import Catalog
from weightd.daemon.done import Entry
from weightd.daemon.model import Grant, Model, Version, VersionState
from weightd.daemon.policy import Policy, Rule
from weightd.daemon.sources import Sources
from weightd.daemon.vault import Vault
from weightd.errors import (
    BadRequestError,
    DamagedStateError,
    NewerFormatError,
    SettingsError,
)
from weightd.ipc import protocol
from weightd.ipc.peer import Key
from weightd.ipc.slots import SLOT_NBYTES


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parts. A new field has a default, so that an older state can be read."""


class KeptVersion(_Part, frozen=True):
    """segments: their inodes, in the manifest's order. source: the key of the file it was made
    from, '' for none."""

    uid: int
    number: int
    state: Literal["LIVE", "HELD"]
    segments: tuple[int, ...]
    source: str = ""
    source_name: str = ""
    damage: str = ""


class KeptGrant(_Part, frozen=True):
    """processes: kind, PID and number of each key, and the PID it was allowed under."""

    handle: int
    processes: tuple[tuple[str, int, int, int], ...]


class KeptModel(_Part, frozen=True):
    """allow and deny: rules, in numbers (policy.py)."""

    name: str
    owner_uid: int
    next_number: int
    was_live: tuple[int, ...]
    versions: tuple[KeptVersion, ...]
    grants: tuple[KeptGrant, ...]
    configured: str = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class State(_Part, frozen=True):
    """incarnation: of the daemon that began it, and of all that adopted it since. done: of requests
    that were carried out `once` (see protocol.Publish), model and version."""

    incarnation: str
    last_uid: int
    models: tuple[KeptModel, ...] = ()
    done: tuple[Entry, ...] = ()


def captured(
    incarnation: str,
    catalog: Catalog,
    vault: Vault,
    sources: Sources,
    aside: tuple[KeptModel, ...] = (),
) -> State:
    """How things are now. aside: entries of models that are set aside, which go on as they are."""
    models = tuple(_model(model, vault, sources) for model in catalog.models.values())
    return State(incarnation, catalog.last_uid, (*models, *aside), catalog.done.entries())


def encode(state: State) -> bytes:
    return protocol.pack(msgspec.to_builtins(state))


def decode(raw: bytes) -> State:
    """DamagedStateError when it is not what encode() made; NewerFormatError when it is what another
    weightd's did: nobody else could have written it with its digest."""
    try:
        found = protocol.unpack(raw, max_nbytes=SLOT_NBYTES)
    except BadRequestError as error:
        raise DamagedStateError(f"it cannot be read: {error}") from error
    try:
        return protocol.convert(found, State)
    except BadRequestError as error:
        raise NewerFormatError(f"it is not of a form that this weightd knows: {error}") from error


def model_of(kept: KeptModel) -> Model:
    """The model, without its versions and rights."""
    model = Model(kept.name, kept.owner_uid, next_number=kept.next_number)
    model.configured = kept.configured
    return model


def version_of(kept: KeptVersion) -> Version:
    return Version(kept.uid, kept.number, VersionState[kept.state], damage=kept.damage)


def grant_of(kept: KeptGrant) -> Grant:
    processes = {Key(kind, pid, number): as_pid for kind, pid, number, as_pid in kept.processes}
    return Grant(kept.handle, processes)


def policy_of(kept: KeptModel) -> Policy:
    """DamagedStateError when it has what is no rule."""
    try:
        allow, deny = (tuple(map(Rule.parse, rules)) for rules in (kept.allow, kept.deny))
    except SettingsError as error:
        raise DamagedStateError(f"the rules of {kept.name!r}: {error}") from error
    return Policy(allow, deny)


def _model(model: Model, vault: Vault, sources: Sources) -> KeptModel:
    return KeptModel(
        name=model.name,
        owner_uid=model.owner_uid,
        next_number=model.next_number,
        was_live=tuple(model.was_live),
        versions=tuple(_version(v, model, vault, sources) for v in model.versions.values()),
        grants=tuple(_grant(grant) for grant in model.grants),
        configured=model.configured,
        allow=tuple(map(str, model.policy.allow)),
        deny=tuple(map(str, model.policy.deny)),
    )


def _version(version: Version, model: Model, vault: Vault, sources: Sources) -> KeptVersion:
    source = sources.get(version.uid)
    return KeptVersion(
        uid=version.uid,
        number=version.number,
        state="LIVE" if version is model.live else "HELD",
        segments=tuple(segment.inode for segment in vault.get(version.uid).segments),
        source=source.key if source else "",
        source_name=source.name if source else "",
        damage=version.damage,
    )


def _grant(grant: Grant) -> KeptGrant:
    processes = tuple(
        (key.kind, key.pid, key.number, as_pid) for key, as_pid in grant.processes.items()
    )
    return KeptGrant(grant.handle, processes)
