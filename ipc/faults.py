"""What is wrong with a value, in words: which part of it, what that is, and what it may be.

msgspec decides what is right, and says what is wrong for programmers. This says it for whoever
wrote the value; it is asked only once something is wrong, so it may take its time.
"""

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 80  # characters of a wrong value
_WORDS: tuple[tuple[type, str], ...] = (  # bool first, which Python takes for an int
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a text"),
    (tuple, "a list"),
    (Mapping, "a table"),
    (Path, "a path"),
    (object, "something else"),
)


class Fault(msgspec.Struct, frozen=True):
    """Where it is, and what: said after the name of the place, as 'is 0, and must be …'. key: the
    key that it is about."""

    path: tuple[str | int, ...]
    what: str
    key: str = ""

    @property
    def place(self) -> str:
        """The path as TOML has it: models.lenet.allow[0]; '' for all of the value."""
        keys = (f"[{key}]" if isinstance(key, int) else f".{_key(key)}" for key in self.path)
        return "".join(keys).removeprefix(".")


def fault_in(value: Any, kind: Any) -> Fault | None:
    """The first thing that keeps a plain value from being of a type; None when it is of it."""
    return next(_faults(value, kind, ()), None)


def near(word: object, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' where one of the known words looks like this one, else ''."""
    found = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _faults(value: Any, kind: Any, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """One for each part that does not fit; the value itself is looked at last, so that a part of it
    is named where one is to blame."""
    if _fits(value, kind):
        return
    bare = _bare(kind)
    yield from _of_parts(value, bare, path)
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    yield Fault(path, f"is {_shown(value)}, and must be {wanted(kind)}{_meant(value, bare)}", key)


def _of_parts(value: Any, kind: Any, path: tuple[str | int, ...]) -> Iterator[Fault]:
    if _is_union(kind):
        for member in get_args(kind):
            if _is_like(value, member):
                yield from _faults(value, member, path)
    elif _is_like(value, kind) and not isinstance(value, dict):
        for index, item in enumerate(value):
            yield from _faults(item, get_args(kind)[0], (*path, index))
    elif _is_like(value, kind):
        of = _of_struct if issubclass(_class(kind), msgspec.Struct) else _of_mapping
        yield from of(value, kind, path)


def _of_struct(
    value: dict[str, Any], kind: type[msgspec.Struct], path: tuple[str | int, ...]
) -> Iterator[Fault]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {f.encode_name: f.required for f in msgspec.structs.fields(kind)}
    there_are = f"there are: {', '.join(fields)}"
    for key in value:
        if key not in fields:
            what = f"has no setting {_cut(repr(key))}{near(key, fields)}; {there_are}"
            yield Fault(path, what, str(key))
    for name, is_required in fields.items():
        if name in value:
            yield from _faults(value[name], hints[name], (*path, name))
        elif is_required:
            yield Fault(path, f"lacks {name!r}, which must be {wanted(hints[name])}", name)


def _of_mapping(value: dict[str, Any], kind: Any, path: tuple[str | int, ...]) -> Iterator[Fault]:
    key_kind, item_kind = get_args(kind)
    for key, item in value.items():
        if not _fits(key, key_kind):
            yield Fault(path, f"has {_shown(key)}, which must be {wanted(key_kind)}", str(key))
        yield from _faults(item, item_kind, (*path, key))


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError):
        return False
    return True


def _is_like(value: Any, kind: Any) -> bool:
    """Whether it has the parts that this type has: those of a table, or of a list."""
    if isinstance(value, dict):
        return issubclass(_class(kind), msgspec.Struct | Mapping)
    return isinstance(value, list | tuple) and issubclass(_class(kind), tuple)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _class(kind: Any) -> type:
    """What a type is at its core; NoneType for one that is no class, such as a Literal."""
    bare = _bare(kind)
    origin = get_origin(bare) or bare
    return origin if isinstance(origin, type) else type(None)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else f'"{_cut(key)}"'


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _shown(value: Any) -> str:
    """A wrong value as TOML has it, or what it is where it is long."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list() | tuple():
            return f"a list of {len(value)}"
    return _cut(repr(value) if isinstance(value, str | int | float) else str(value))


def _meant(value: Any, kind: Any) -> str:
    return near(value, get_args(kind)) if get_origin(kind) is Literal else ""


# --- what a type takes -------------------------------------------------------------------


def wanted(kind: Any) -> str:
    """What a value of this type is; a type that has a description says so itself."""
    if get_origin(kind) is Annotated:
        notes = [note for note in get_args(kind)[1:] if isinstance(note, msgspec.Meta)]
        described = next((note.description for note in notes if note.description), None)
        return described or _bounded(kind)
    if _is_union(kind):
        members = [member for member in get_args(kind) if member is not type(None)]
        return " or ".join(map(wanted, members))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    core = _class(kind)
    if issubclass(core, Enum):
        return f"one of {', '.join(repr(member.value) for member in core)}"
    if issubclass(core, msgspec.Struct):
        return f"a table with {', '.join(core.__struct_fields__)}"
    return next(word for kinds, word in _WORDS if issubclass(core, kinds))


def _bounded(kind: Any) -> str:
    found = inspect.type_info(kind)
    what = wanted(_bare(kind))
    match found:
        case inspect.IntType() | inspect.FloatType():
            ends = [
                ("at least", found.ge),
                ("more than", found.gt),
                ("at most", found.le),
                ("less than", found.lt),
            ]
            said = " and ".join(f"{how} {_number(end)}" for how, end in ends if end is not None)
            return f"{what}, {said}" if said else what
        case inspect.StrType() | inspect.VarTupleType():
            if found.max_length is not None:
                unit = "characters" if isinstance(found, inspect.StrType) else "entries"
                return f"{what} of at most {found.max_length} {unit}"
    return what


def _number(end: float) -> str:
    return str(end) if isinstance(end, int) else f"{end:.15g}"
