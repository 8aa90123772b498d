"""The parts of a daemon's status: plain data, for people, programs and the wire.

Sizes are in bytes, moments in seconds since 1970.
"""

import msgspec


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the parts."""


class VersionStatus(Part, frozen=True):
    """One version. nbytes: its memory in all; shared_nbytes: what other versions use of that, too;
    leases: how many workers hold it; damage: what in memory is not as it was published, or ''."""

    number: int
    state: str
    nbytes: int
    shared_nbytes: int
    leases: int
    damage: str = ""


class ModelStatus(Part, frozen=True):
    """One model. live: the live version's number; note: why a slower path is taken, or ''; nbytes:
    its versions' memory together, what they share counted once. allow and deny: rules for who may
    attach, beside the processes of allowed_pids."""

    name: str
    owner_uid: int
    live: int
    layout: str
    engine: str
    note: str
    source: str
    nbytes: int
    versions: tuple[VersionStatus, ...]
    allowed_pids: tuple[int, ...]
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class WorkerStatus(Part, frozen=True):
    """One lease. lag: '' when it runs the live version, else why it does not yet. engine and note:
    what it runs on, and why that is not the version's engine; '' as long as it is. by: the rule
    that let it in, or 'pid'."""

    pid: int
    uid: int
    model: str
    version: int
    since_unix_s: float
    switches: int
    last_pause_us: float
    lag: str
    engine: str
    note: str
    by: str = "pid"


class VersionCheck(Part, frozen=True):
    """What a verify found of one version. pieces: tensors and graphs that were compared, of nbytes
    in all, in `seconds`; verdict: sound, damaged, or freed (meanwhile); damage: as in
    VersionStatus."""

    model: str
    version: int
    pieces: int
    nbytes: int
    seconds: float
    verdict: str
    damage: str


class StagingStatus(Part, frozen=True):
    """One running load or publish."""

    model: str
    pid: int
    step: str
    done: int
    total: int
