"""What an operator can set, read from weightd.toml or given on the command line."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from weightd.daemon.accounts import Accounts
from weightd.daemon.bounds import Bounds
from weightd.daemon.policy import Policy, Rule
from weightd.daemon.roles import Roles, roles_of
from weightd.errors import LimitError, SettingsError
from weightd.ipc.fields import Engine, ModelName

_NO_OPTIONS: Mapping[str, str] = {}
_SIZES = {"memory_budget", "staged_nbytes_per_uid"}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e7)]  # 1e7: some months
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Nbytes = Annotated[
    int,
    msgspec.Meta(ge=1, le=2**63 - 1, description="a size of at least 1 byte, like 4096 or '8GiB'"),
]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Path = Annotated[str, msgspec.Meta(description="the path of a model's file")]
_Uid = Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1, description="a uid")]
_User = Annotated[str, msgspec.Meta(description="a user, '@group'")]
_Admins = Annotated[
    tuple[_User | _Uid, ...], msgspec.Meta(description="a list of users, uids and '@group's")
]
_Role = Annotated[str, msgspec.Meta(description="'anyone', 'owner' or 'admin'")]
_Roles = Annotated[
    dict[str, _Role], msgspec.Meta(description="a table of requests and roles, like load = 'admin'")
]
_Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
_PerSecond = Annotated[float, msgspec.Meta(ge=1, le=1e9)]
_Rule = Annotated[
    str,
    msgspec.Meta(max_length=300, description="a rule of at most 300 characters, like 'user:alice'"),
]
_Rules = Annotated[
    tuple[_Rule, ...],
    msgspec.Meta(description="a list of rules, like ['user:alice', 'unit:app@*.service']"),
]


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model to load at start. allow and deny: rules for who may attach (policy.py)."""

    path: _Path
    allow: _Rules = ()
    deny: _Rules = ()


_Models = Annotated[
    Mapping[ModelName, _Path | ModelSettings],
    msgspec.Meta(description="a table of models and their files, like lenet = 'lenet5.onnx'"),
]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One daemon's settings.

    models: name -> path of a file to load at start, or that and rules for who may attach; deny:
    rules for whom no model lets in. admins: users, uids and '@group's that are admins, as root and
    the daemon's user always are; roles: request -> anyone, owner or admin, where it is not as by
    default. control_group: a group that reaches the control and admin sockets. engine: prepacked,
    plain or reference for all models that are loaded without naming one; empty for prepacked, and
    plain where that fails.
    keep: versions held for rollback, the live one included. versions_held: how many versions a
    model may have in memory, with those that workers hold. memory_budget: bytes that all segments
    together may take ('8GiB' in a file), None for what the machine gives. attach_public: let
    workers of other users reach the attach socket (they still must be whitelisted).
    stage_deadline_s: the longest a load or publish may take. answer_limit_s: the longest that one
    prediction on a small made-up input may take, which each version is verified by.
    keep_tensors_on_demand: keep a model's original tensors, too, once an allowed worker says that
    it cannot use what was compiled (it has another onnxruntime); they take as much memory again.
    leases_per_uid, requests_per_s_per_uid, staged_nbytes_per_uid: for one user; the last is of the
    models that it owns, None for no limit, and root and the daemon's user have none.
    read_in_threads: read each worker's messages in a thread of its own, as is done by itself on
    kernels before 6.16, where a peer could otherwise stall the reader. hello_deadline_s: how long a
    process may stay connected to the attach socket without a lease.
    scrub_mb_per_s: how fast what lies in memory is compared with its digests in the background, in
    10**6 bytes a second; 0: not at all. scrub_pause_s: how long to rest before each round.
    """

    models: _Models = {}
    deny: _Rules = ()
    admins: _Admins = ()
    roles: _Roles = {}
    control_group: str = ""
    engine: Engine = ""
    keep: _Count = 2
    versions_held: _Count = 64
    memory_budget: _Nbytes | None = None
    attach_public: bool = False
    stage_deadline_s: _Seconds = 600.0
    answer_limit_s: _Seconds = 60.0
    keep_tensors_on_demand: bool = True
    leases_per_uid: _Count = 4096
    requests_per_s_per_uid: _PerSecond = 5000.0
    staged_nbytes_per_uid: _Nbytes | None = None
    read_in_threads: bool = False
    hello_deadline_s: _Seconds = 10.0
    scrub_mb_per_s: _Rate = 4.0
    scrub_pause_s: _Seconds = 60.0
    log_level: _Level = "INFO"

    @property
    def paths(self) -> dict[str, str]:
        """The files to load at start, by model."""
        return {name: m if isinstance(m, str) else m.path for name, m in self.models.items()}

    @property
    def folder_mode(self) -> int:
        """Of the runtime folder: others pass through it to the sockets that they may use."""
        return 0o711 if self.attach_public or self.control_group else 0o700


class Access(msgspec.Struct, frozen=True):
    """Who may do what, with names made numbers. policies: by model; deny: for every model;
    control_gid: of the group that reaches the control socket."""

    roles: Roles
    policies: dict[str, Policy]
    deny: tuple[Rule, ...]
    control_gid: int | None


def access_of(settings: Settings, accounts: Accounts | None = None) -> Access:
    """What the settings say of it; SettingsError names what this machine does not know."""
    accounts = accounts or Accounts()
    policies = {
        name: Policy(
            _rules(m.allow, accounts, f"models.{name}.allow"),
            _rules(m.deny, accounts, f"models.{name}.deny"),
        )
        for name, m in settings.models.items()
        if isinstance(m, ModelSettings)
    }
    roles = roles_of(settings.admins, settings.roles, os.geteuid(), accounts)
    deny = _rules(settings.deny, accounts, "deny")
    return Access(roles, policies, deny, _control_gid(settings, accounts))


def bounds_of(settings: Settings, access: Access) -> Bounds:
    """What of it the catalog goes by."""
    return Bounds(
        settings.keep,
        settings.leases_per_uid,
        settings.versions_held,
        access.policies,
        access.deny,
    )


def _rules(texts: tuple[str, ...], accounts: Accounts, where: str) -> tuple[Rule, ...]:
    try:
        return Policy().allowing(Rule.parse(text, accounts) for text in texts).allow
    except (SettingsError, LimitError) as error:
        raise SettingsError(f"{where}: {error}") from error


def _control_gid(settings: Settings, accounts: Accounts) -> int | None:
    if not settings.control_group:
        return None
    try:
        return accounts.gid_of(settings.control_group)
    except KeyError:
        raise SettingsError(
            f"control_group: this machine has no group {settings.control_group!r}"
        ) from None


def from_file(path: Path) -> Settings:
    """The settings in a TOML file; SettingsError names the file, the key and what is allowed."""
    import tomllib  # here: a daemon that is given its settings starts without

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return from_values(values, str(path))


def from_values(
    values: dict[str, Any], where: str, options: Mapping[str, str] = _NO_OPTIONS
) -> Settings:
    """Settings from plain values; sizes may be numbers or texts such as '8GiB'. where: what they
    are from, with which a refusal begins. options: what settings are called that were given on the
    command line."""
    for size in _SIZES & values.keys():
        if isinstance(values[size], str):
            of = options.get(size) or f"{where}: {size}"
            values = {**values, size: nbytes(values[size], f"{of}: ")}
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_complaint(values, where, options)) from error
    if settings.versions_held <= settings.keep:
        keep = options.get("keep", "keep")
        raise SettingsError(
            f"{where}: versions_held ({settings.versions_held}) must be more than {keep} "
            f"({settings.keep}), or nothing could be published"
        )
    try:
        access_of(settings)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    return settings


def _complaint(values: dict[str, Any], where: str, options: Mapping[str, str]) -> str:
    from weightd.ipc.faults import fault_in  # here: a daemon whose settings are right needs none

    fault = fault_in(values, Settings)
    if fault is None:
        raise AssertionError("msgspec refused settings in which nothing is wrong")
    if not fault.path:
        return f"{where} {fault.what}"
    if fault.path[0] in options:
        place = fault.place.replace(str(fault.path[0]), options[str(fault.path[0])], 1)
        return f"{place} {fault.what}"
    is_misplaced = fault.key != fault.path[0] and fault.key in Settings.__struct_fields__
    advice = f"; the setting {fault.key!r} belongs above the first [table]" if is_misplaced else ""
    return f"{where}: {fault.place} {fault.what}{advice}"


def nbytes(size: str, of: str = "") -> int:
    """A size in bytes: '1024', '512M', '8GiB', '1.5 G' (powers of 1024). `of` begins a refusal."""
    match = re.fullmatch(
        r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", size, re.IGNORECASE
    )
    if match is None:
        raise SettingsError(f"{of}{size!r} is no size; write it like 512M or 8GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
