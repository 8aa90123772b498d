"""The parts of a manifest: where a tensor lies, what may be published, what goes in and out.

Plain data. What holds between them is checked in manifest_rules.py.
"""

import msgspec


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor in a segment. offset in bytes, a multiple of 64; digest: xxh3-128 of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    segment: int
    offset: int
    nbytes: int
    digest: bytes


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that a publish may bring, as the model's source file names it. digest: of its bytes
    in the file that this version was made from; empty where nothing would be compared with it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: bytes = b""


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of the graph. A dimension is a size, a symbol, or None when unknown."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes in a segment that are not a tensor: a serialized graph. digest: xxh3-128 of them; empty
    in versions that were staged before graphs had one."""

    segment: int
    offset: int
    nbytes: int
    digest: bytes = b""
