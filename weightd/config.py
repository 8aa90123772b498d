"""What a MindSpore Lite script says besides its Context: the ini file of config_path, and
config_dict, which beats it. Read here once; what it means for weightd is in BuildConfig.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from weightd.errors import SettingsError
from weightd.ipc.fields import Engine

log = logging.getLogger("weightd")

Sections = Mapping[str, Mapping[str, str]]

# Where the keys of sharing may stand. The tutorial's text has two of them without a section, and
# under other names than its code.
_CONTEXTS = ("ascend_context", "cpu_context", "gpu_context", "weightd")
_ALIASES = {"pids": "shareable_weight_pid_list", "shared_mem_handle": "shareable_weight_mem_handle"}
_KNOWN = {
    "shareable_weight_pid_list",
    "shareable_weight_mem_handle",
    "variable_weights_file",
    *_ALIASES,
}
_OWN = {"daemon", "engine"}  # of section [weightd]
_SHAPES = {  # said by get_model_info, and decided by the model itself
    "input_shape": "input_shape",
    "dynamic_dims": "dynamic_dims",
    "dynamic_Dims": "dynamic_dims",
    "ge.dynamicDims": "dynamic_dims",
}
_SECTION = re.compile(r"\[([^\]]+)\]")
_PIDS = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*,?\s*")
_HANDLE = re.compile(r"\s*-?\d{1,20}\s*")
_DAEMON = ("auto", "required", "never")
_ENGINES = get_args(Engine)


@dataclass(frozen=True)
class BuildConfig:
    """pids: whom the model is shared with; None when it is not. A list without a living PID is a
    list. handle: of the model to attach, None to build it from its file. variables: the weights
    that update_weights may replace: the caller's name -> the model's. shapes: what it says for
    get_model_info. daemon: 'auto', 'required' or 'never'. engine: '' or one of weightd's."""

    pids: tuple[int, ...] | None = None
    handle: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    daemon: str = "auto"
    engine: str = ""


def read_ini(path: str) -> dict[str, dict[str, str]]:
    """The sections of a file in MindSpore's dialect; SettingsError says which line is no part of
    one. A line is a section only when it is one as a whole, so that [op_name]=... is a key; keys
    keep their case; the last of two counts."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] | None = None
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line[0] in "#;":
            continue
        if head := _SECTION.fullmatch(line):
            section = found.setdefault(head[1].strip(), {})
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if section is None or not key or not equals:
            raise SettingsError(
                f"{path}, line {number}: {line!r} is no [section] nor its key=value"
            )
        section[key] = value
    return found


def merged(file: Sections, given: Mapping[str, str | Mapping[str, str]]) -> Sections:
    """The file's sections with config_dict's values over them, in whichever section the file has
    them. A key of sharing that config_dict has without a section goes into [weightd]."""
    over: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        section, values = ("weightd", {name: value}) if isinstance(value, str) else (name, value)
        over.setdefault(section, {}).update(values)
    known = {_ALIASES.get(key, key) for name in _CONTEXTS for key in over.get(name, {})} & _KNOWN
    found = {
        name: {key: text for key, text in values.items() if _ALIASES.get(key, key) not in known}
        for name, values in file.items()
    }
    for name, values in over.items():
        found.setdefault(name, {}).update(values)
    return found


def is_bare_key(name: str, value: object) -> bool:
    """Whether config_dict may have this without a section: {"pids": "1, 2"}."""
    return name in _ALIASES and isinstance(value, str)


def parse(sections: Sections, *, folder: Path | None = None) -> BuildConfig:
    """What the sections ask of weightd. folder: of the ini file, where a list of names is looked
    for that is not in the current folder. SettingsError says what is wrong with a value."""
    values: dict[str, str] = {}
    for section in _CONTEXTS:
        for key, text in sections.get(section, {}).items():
            name, value = _ALIASES.get(key, key), _unquoted(text)
            if name in _KNOWN and values.setdefault(name, value) != value:
                raise SettingsError(f"{name} is given twice, as {values[name]!r} and {value!r}")
    pids = values.get("shareable_weight_pid_list")
    handle = values.get("shareable_weight_mem_handle")
    if pids is not None and handle is not None:
        raise SettingsError(
            "shareable_weight_pid_list is for the process that shares its weights, and "
            "shareable_weight_mem_handle for one that uses them: give one of the two"
        )
    names = values.get("variable_weights_file")
    own = sections.get("weightd", {})
    daemon, engine = own.get("daemon", "auto"), own.get("engine", "")
    for key, value, known in (("daemon", daemon, _DAEMON), ("engine", engine, _ENGINES)):
        if value not in known:
            listed = ", ".join(filter(None, known))
            raise SettingsError(f"[weightd] {key} is {value!r}; it must be one of {listed}")
    return BuildConfig(
        pids=None if pids is None else _pids(pids),
        handle=None if handle is None else _handle(handle),
        variables={} if names is None else _variables(names, folder),
        shapes=_shapes(sections),
        daemon=daemon,
        engine=engine,
    )


def _pids(text: str) -> tuple[int, ...]:
    if not _PIDS.fullmatch(text):
        raise SettingsError(
            f"shareable_weight_pid_list is {text!r}; write PIDs with commas: '4711, 4712'"
        )
    found = (int(part) for part in text.split(",") if part.strip())
    # The tutorial's own list has a 0 in the place of the process that shares.
    return tuple(dict.fromkeys(pid for pid in found if pid))


def _handle(text: str) -> int:
    """A uint64, or the int64 that it becomes in a ctypes.c_int64, as the tutorial passes it on."""
    number = int(text) if _HANDLE.fullmatch(text) else -(2**64)
    if not -(2**63) <= number < 2**64:
        raise SettingsError(
            f"shareable_weight_mem_handle is {text!r}; it is the decimal number that "
            'get_model_info("shareable_weight_mem_handle") gave'
        )
    return number % 2**64


def _variables(path: str, folder: Path | None) -> dict[str, str]:
    """The names in a list: one a line, 'name' or 'name,the model's name for it'."""
    file = Path(path)
    if not file.exists() and folder is not None and (folder / path).exists():
        file = folder / path
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"variable_weights_file {path!r} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        name, _, mapped = (part.strip() for part in line.partition(","))
        if not name:
            raise SettingsError(f"variable_weights_file {path!r}: {line!r} begins with no name")
        if found.setdefault(name, mapped or name) != (mapped or name):
            raise SettingsError(f"variable_weights_file {path!r} has {name!r} for two weights")
    if not found:
        raise SettingsError(f"variable_weights_file {path!r} names no weight")
    return found


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'")


def _shapes(sections: Sections) -> dict[str, str]:
    return {
        _SHAPES[key]: _unquoted(value)
        for values in sections.values()
        for key, value in values.items()
        if key in _SHAPES
    }


def name_ignored(sections: Sections) -> None:
    """Say in the log what weightd has no use for."""
    known = _KNOWN | _SHAPES.keys()
    ignored = [
        f"[{section}] {key}"
        for section, values in sections.items()
        for key in values
        if not (section in _CONTEXTS and key in known)
        and not (section == "weightd" and key in _OWN)
        and key not in _SHAPES
    ]
    if ignored:
        log.warning("weightd has no use for these settings, and leaves them: %s", _listed(ignored))


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)
