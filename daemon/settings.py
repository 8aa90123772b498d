"""What an operator can set, read from weightd.toml or given on the command line."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from weightd.errors import SettingsError
from weightd.ipc.protocol import Engine, ModelName

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e7)]  # 1e7: some months
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Nbytes = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One daemon's settings.

    models: name -> path of a file to load at start. engine: prepacked, plain or reference for all
    models that are loaded without naming one; empty for prepacked, and plain where that fails.
    keep: versions held for rollback, the live one included. memory_budget: bytes that all segments
    together may take ('8GiB' in a file), None for what the machine gives. attach_public: let
    workers of other users reach the attach socket (they still must be whitelisted).
    stage_deadline_s: the longest a load or publish may take. answer_limit_s: the longest that one
    prediction on a small made-up input may take, which each version is verified by.
    keep_tensors_on_demand: keep a model's original tensors, too, once an allowed worker says that
    it cannot use what was compiled (it has another onnxruntime); they take as much memory again.
    leases_per_uid: for one user.
    read_in_threads: read each worker's messages in a thread of its own, as is done by itself on
    kernels before 6.16, where a peer could otherwise stall the reader. hello_deadline_s: how long a
    process may stay connected to the attach socket without a lease.
    scrub_mb_per_s: how fast what lies in memory is compared with its digests in the background, in
    10**6 bytes a second; 0: not at all. scrub_pause_s: how long to rest before each round.
    """

    models: dict[ModelName, str] = {}
    engine: Engine = ""
    keep: _Count = 2
    memory_budget: _Nbytes | None = None
    attach_public: bool = False
    stage_deadline_s: _Seconds = 600.0
    answer_limit_s: _Seconds = 60.0
    keep_tensors_on_demand: bool = True
    leases_per_uid: _Count = 4096
    read_in_threads: bool = False
    hello_deadline_s: _Seconds = 10.0
    scrub_mb_per_s: _Rate = 4.0
    scrub_pause_s: _Seconds = 60.0
    log_level: _Level = "INFO"


def from_file(path: Path) -> Settings:
    """The settings in a TOML file; SettingsError names the file, the key and what is allowed."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return from_values(values, str(path))


def from_values(values: dict[str, Any], where: str) -> Settings:
    """Settings from plain values; sizes may be numbers or texts such as '8GiB'."""
    budget = values.get("memory_budget")
    if isinstance(budget, str):
        values = {**values, "memory_budget": nbytes(budget, f"{where}: memory_budget: ")}
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        known = ", ".join(Settings.__struct_fields__)
        raise SettingsError(f"{where}: {error}; the settings are: {known}") from error
    return settings


def nbytes(size: str, of: str = "") -> int:
    """A size in bytes: '1024', '512M', '8GiB', '1.5 G' (powers of 1024). `of` begins a refusal."""
    match = re.fullmatch(
        r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", size, re.IGNORECASE
    )
    if match is None:
        raise SettingsError(f"{of}{size!r} is no size; write it like 512M or 8GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
