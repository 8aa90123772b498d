"""The manifest: what one version is made of and where it lies; and its place in the segment.

A Manifest that exists is valid: the constructor checks every rule (manifest_rules.py), so nobody
checks again. It lies in segment 0, the newest, behind a header at offset 0:

    magic "WEIGHTD1" | u32 format = 1 | u32 0 | u64 offset | u64 nbytes | xxh3-128 of the manifest

little endian, and HEADER_NBYTES are kept free for it. Knows no numpy and no files: the daemon
imports it.
"""

import struct
from functools import cached_property
from typing import Literal, get_args

import msgspec
from xxhash import xxh3_128_digest

from weightd.errors import (
    BadManifestError,
    BadRequestError,
    NewerFormatError,
    UnknownTensorError,
)
from weightd.ipc import protocol
from weightd.weights import manifest_rules as rules
from weightd.weights.dtypes import MAX_INT, name_fault
from weightd.weights.entries import Blob, Parameter, Port, TensorEntry
from weightd.weights.fit import check_parameters_fit, check_ports_fit
from weightd.weights.manifest_rules import HEADER_NBYTES, MAX_SEGMENTS

__all__ = [
    "HEADER_NBYTES",
    "MAX_MANIFEST_NBYTES",
    "MAX_SEGMENTS",
    "ORIGIN",
    "ORIGIN_WEIGHTS",
    "Blob",
    "Layout",
    "Manifest",
    "Parameter",
    "Port",
    "TensorEntry",
    "pack_header",
    "read_manifest",
]

MAX_MANIFEST_NBYTES = 16 * 1024 * 1024
MAGIC = b"WEIGHTD1"
FORMAT = 1
_HEADER = struct.Struct("<8sIIQQ16s")

Layout = Literal["tensors", "compiled"]

# Stamps that all versions of a model have from its first one.
ORIGIN = "origin"  # the file that it was made from
ORIGIN_WEIGHTS = "origin_weights"  # the digest of what was in it


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One version: its tensors, graph and ports. BadManifestError when it breaks a rule.

    segments: sizes in bytes; index 0 is the newest and holds this manifest.
    tensors: under the names of the source file. compiled: what the engine needs, under its names;
    a tensor may lie inside one of these.
    graph: the compiled one; source_graph: the original without its weights.
    parameters: what a publish brings; constants: those of them that it may leave out.
    reference_inputs, reference_outputs: an answer that the model must give, by the ports' names.
    stamp: what the version was compiled for. source: file name and format, for people. renamed:
    what rules made of the names in it; "": left out. updated: tensors whose values are not that
    file's: they are among `tensors`.
    """

    model: str
    version: int
    layout: Layout
    segments: tuple[int, ...]
    tensors: tuple[TensorEntry, ...]
    stamp: dict[str, str] = {}
    compiled: tuple[TensorEntry, ...] = ()
    graph: Blob | None = None
    source_graph: Blob | None = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    constants: tuple[str, ...] = ()
    source: str = ""
    renamed: dict[str, str] = {}
    updated: tuple[str, ...] = ()
    reference_inputs: tuple[TensorEntry, ...] = ()
    reference_outputs: tuple[TensorEntry, ...] = ()

    def __post_init__(self) -> None:
        self._check_identity()
        rules.check_segments(self.segments)
        lists = (
            ("tensor", self.tensors),
            ("compiled tensor", self.compiled),
            ("reference input", self.reference_inputs),
            ("reference output", self.reference_outputs),
        )
        blobs = (("the graph", self.graph), ("the source graph", self.source_graph))
        extents: list[rules.Extent] = []
        for what, entries in lists:
            rules.check_entries(what, entries, self.segments)
            found = rules.extents_of(what, entries)
            extents += rules.outside(found, self.compiled) if what == "tensor" else found
        for what, blob in blobs:
            rules.check_blob(what, blob, self.segments)
            extents += rules.blob_extents(what, blob)
        rules.check_apart(extents)
        rules.check_ports("input", self.inputs)
        rules.check_ports("output", self.outputs)
        rules.check_reference("reference input", self.reference_inputs, self.inputs)
        rules.check_reference("reference output", self.reference_outputs, self.outputs)
        rules.check_tensors("parameter", self.parameters)
        rules.check_constants(self.constants, self.parameters)
        rules.check_texts([self.source, *self.stamp, *self.stamp.values()])
        rules.check_renamed(self.renamed)
        rules.check_updated(self.updated, self.parameters, self.tensors)

    def _check_identity(self) -> None:
        if fault := name_fault(self.model):
            raise BadManifestError(f"the model {fault}")
        if not 1 <= self.version <= MAX_INT:
            raise BadManifestError(f"version {self.version} is out of range: 1 to 2**63 - 1")
        if self.layout not in get_args(Layout):
            raise BadManifestError(f"unknown layout {self.layout!r}: tensors or compiled")
        if self.layout == "tensors" and self.compiled:
            raise BadManifestError("layout 'tensors' has no compiled tensors, but some are listed")

    def encode(self) -> bytes:
        """The bytes that lie in the segment; BadManifestError when they are too many."""
        raw = protocol.pack(msgspec.to_builtins(self, builtin_types=(bytes,)))
        _check_nbytes(len(raw))
        return raw

    @classmethod
    def decode(cls, raw: bytes | memoryview) -> "Manifest":
        """The manifest in untrusted bytes, checked; else BadManifestError."""
        _check_nbytes(len(raw))
        try:
            plain = protocol.unpack(raw, max_nbytes=MAX_MANIFEST_NBYTES)
            return protocol.convert(plain, cls)
        except BadRequestError as error:
            raise BadManifestError(f"the manifest cannot be decoded: {error}") from error

    def find(self, name: str) -> TensorEntry:
        """The tensor of this name; UnknownTensorError says what there is instead."""
        entry = self._by_name.get(name)
        if entry is None:
            raise UnknownTensorError(self._why_unknown(name))
        return entry

    def check_fits(self, live: "Manifest") -> None:
        """MismatchError unless this version can follow `live` in its model."""
        check_parameters_fit(
            self.parameters, live.parameters, optional=live.constants, model=live.model
        )
        check_ports_fit("inputs", self.inputs, live.inputs, model=live.model)
        check_ports_fit("outputs", self.outputs, live.outputs, model=live.model)

    @cached_property
    def _by_name(self) -> dict[str, TensorEntry]:
        return {entry.name: entry for entry in self.tensors}

    def _why_unknown(self, name: str) -> str:
        of = f"of model {self.model!r} version {self.version}"
        names = [parameter.name for parameter in self.parameters]
        if self.layout == "compiled" and name in names:
            return (
                f"tensor {name!r} {of} was merged, renamed or packed by the engine; to keep it "
                "readable load the model with --keep-tensors (Client.load(..., keep_tensors=True))"
            )
        import difflib  # here: the daemon starts without

        close = difflib.get_close_matches(name, self._by_name or names)
        has = f"close: {', '.join(close)}" if close else f"it has {len(self.tensors)} others"
        return f"no tensor {name!r} {of}; {has}"


def pack_header(offset: int, raw: bytes) -> bytes:
    """The HEADER_NBYTES for offset 0 of segment 0; the manifest `raw` lies at `offset`."""
    header = _HEADER.pack(MAGIC, FORMAT, 0, offset, len(raw), xxh3_128_digest(raw))
    return header.ljust(HEADER_NBYTES, b"\0")


def read_manifest(data: memoryview) -> Manifest:
    """The manifest of the version whose segment 0 is `data`; BadManifestError says what is off,
    NewerFormatError that a newer weightd wrote it."""
    if len(data) < HEADER_NBYTES:
        raise BadManifestError(f"a segment of {len(data)} bytes is too short for a header")
    magic, version, zero, offset, nbytes, digest = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise BadManifestError("the segment does not begin with weightd's magic: not a version")
    if version > FORMAT:
        raise NewerFormatError(
            f"segment format {version}; this weightd reads {FORMAT}: a newer one wrote it"
        )
    if version != FORMAT or zero:
        raise BadManifestError(f"segment format {version}.{zero}; this weightd reads {FORMAT}.0")
    _check_nbytes(nbytes)
    if offset < HEADER_NBYTES or offset + nbytes > len(data):
        raise BadManifestError(
            f"the manifest's place is out of bounds: offset {offset}, {nbytes} bytes, "
            f"in a segment of {len(data)}"
        )
    raw = bytes(data[offset : offset + nbytes])
    if xxh3_128_digest(raw) != digest:
        raise BadManifestError("the manifest's digest is wrong: the segment is damaged")
    return _of_this_segment(Manifest.decode(raw), len(data))


def _of_this_segment(manifest: Manifest, nbytes: int) -> Manifest:
    if manifest.segments[0] != nbytes:
        raise BadManifestError(
            f"the manifest is for a segment of {manifest.segments[0]} bytes; this one has {nbytes}"
        )
    return manifest


def _check_nbytes(nbytes: int) -> None:
    if nbytes > MAX_MANIFEST_NBYTES:
        raise BadManifestError(
            f"a manifest of {nbytes} bytes is too large; the limit is {MAX_MANIFEST_NBYTES}"
        )
