"""Messages as bytes. The only file that imports msgpack.

decode() takes bytes of an untrusted peer: msgpack with its limits set, then a check of tag, fields
and types. What is not exactly one of the expected messages raises BadRequestError and goes no
further.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgpack
import msgspec

from weightd.errors import BadRequestError
from weightd.ipc.fields import NAME_PATTERN, NAME_RULE

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # a type or a union of types, as a value

MAX_MESSAGE_NBYTES = 64 * 1024  # a SEQPACKET message of 300 KB is EMSGSIZE


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of every message; the class name is its tag on the wire."""


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return pack(msgspec.to_builtins(message, builtin_types=(bytes,)))


M = TypeVar("M")


def decode(
    raw: bytes | memoryview, kind: "TypeForm[M]", *, max_nbytes: int = MAX_MESSAGE_NBYTES
) -> M:
    """The message in `raw`, which must be one of `kind`; else BadRequestError."""
    plain = unpack(raw, max_nbytes=max_nbytes)
    tag = plain.get("type") if isinstance(plain, dict) else None
    if isinstance(tag, str):  # msgspec works a union out at each call, and takes ten times as long
        kind = _tagged(kind, tag)
    return convert(plain, kind)


def _tagged(kind: Any, tag: str) -> Any:
    """The message of a union that has this tag; the union, which then says what there is, if none
    has."""
    return _by_tag(kind).get(tag, kind)


@cache
def _by_tag(kind: Any) -> dict[str, Any]:
    return {message.__name__: message for message in get_args(kind)}


def pack(value: Any) -> bytes:
    """msgpack bytes of plain values (None, bool, int, float, str, bytes, list, dict)."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(raw: bytes | memoryview, *, max_nbytes: int) -> Any:
    """The plain value in untrusted msgpack bytes; BadRequestError when it is not exactly one."""
    if len(raw) > max_nbytes:
        raise BadRequestError(f"a message of {len(raw)} bytes; the limit is {max_nbytes}")
    try:
        return msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            max_str_len=max_nbytes,
            max_bin_len=max_nbytes,
            max_array_len=max_nbytes,
            max_map_len=max_nbytes,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise BadRequestError(f"not a msgpack message: {error}") from error


def convert(value: Any, kind: "TypeForm[M]") -> M:
    """`value` as an instance of `kind`, checked field by field; else BadRequestError."""
    try:
        plain: Any = kind  # msgspec's own types know classes only
        converted: M = msgspec.convert(value, plain, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        if NAME_PATTERN in str(error):
            raise BadRequestError(NAME_RULE) from error
        raise BadRequestError(f"not a valid message: {error}") from error
    return converted
