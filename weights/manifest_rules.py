"""What must hold inside a manifest. Each rule broken is a BadManifestError with its own text.

Run once, by Manifest's constructor: whoever has a Manifest can trust every offset in it.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from weightd.errors import BadManifestError
from weightd.weights.dtypes import MAX_INT, MAX_TENSORS, name_fault, nbytes_of, tensor_fault
from weightd.weights.entries import Blob, Parameter, Port, TensorEntry

HEADER_NBYTES = 4096
ALIGNMENT = 64
DIGEST_NBYTES = 16
MAX_SEGMENTS = 16


class Extent(NamedTuple):
    """Bytes of a segment that somebody uses. digest and name are empty for what is not a tensor."""

    segment: int
    offset: int
    end: int
    digest: bytes
    what: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.name!r}" if self.name else self.what


def check_segments(segments: Sequence[int]) -> None:
    if not segments:
        raise BadManifestError("the manifest names no segment")
    if len(segments) > MAX_SEGMENTS:
        raise BadManifestError(f"{len(segments)} segments; the limit is {MAX_SEGMENTS}")
    for index, nbytes in enumerate(segments):
        if not 0 <= nbytes <= MAX_INT:
            raise BadManifestError(f"segment {index} has an impossible size: {nbytes} bytes")


def check_entries(what: str, entries: Sequence[TensorEntry], segments: Sequence[int]) -> None:
    if not entries:
        return
    check_tensors(what, entries)
    for entry in entries:
        if fault := _entry_fault(entry) or _place_fault(entry, segments):
            raise BadManifestError(f"{what} {entry.name!r} {fault}")


def check_tensors(what: str, tensors: Sequence[TensorEntry | Parameter]) -> None:
    _check_names(what, [tensor.name for tensor in tensors])
    for tensor in tensors:
        fault = tensor_fault(tensor.dtype, tensor.shape)
        if fault:
            raise BadManifestError(f"{what} {tensor.name!r} {fault}")
        if isinstance(tensor, Parameter) and len(tensor.digest) not in (0, DIGEST_NBYTES):
            raise BadManifestError(
                f"{what} {tensor.name!r} has a digest of {len(tensor.digest)} bytes"
            )


def check_ports(what: str, ports: Sequence[Port]) -> None:
    _check_names(what, [port.name for port in ports])
    for port in ports:
        fault = tensor_fault(port.dtype, [dim for dim in port.shape if isinstance(dim, int)])
        if fault:
            raise BadManifestError(f"{what} {port.name!r} {fault}")
        check_texts([dim for dim in port.shape if isinstance(dim, str)])


def check_reference(what: str, entries: Sequence[TensorEntry], ports: Sequence[Port]) -> None:
    """Each is for a port, and of its dtype. Its shape is not compared: a graph may say less, or
    something else, than what its engine answers."""
    if not entries:
        return
    dtypes = {port.name: port.dtype for port in ports}
    for entry in entries:
        if dtypes.get(entry.name) != entry.dtype:
            wanted = dtypes.get(entry.name, "not a port's name")
            raise BadManifestError(f"{what} {entry.name!r} is {entry.dtype}; the port is {wanted}")


def check_texts(texts: Iterable[str]) -> None:
    """Texts must survive the way to bytes: a lone surrogate does not."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise BadManifestError(f"a text in the manifest is not valid Unicode: {error}") from error


def check_renamed(renamed: Mapping[str, str]) -> None:
    if len(renamed) > MAX_TENSORS:
        raise BadManifestError(f"more than {MAX_TENSORS} renamed tensors")
    for name in itertools.chain(renamed, filter(None, renamed.values())):
        if fault := name_fault(name):
            raise BadManifestError(f"a renamed tensor {fault}")


def check_constants(constants: Sequence[str], parameters: Sequence[Parameter]) -> None:
    if not constants:
        return
    _check_names("constant", constants)
    unknown = set(constants) - {parameter.name for parameter in parameters}
    if unknown:
        raise BadManifestError(f"constant {min(unknown)!r} is not one of the parameters")


def check_updated(
    updated: Sequence[str], parameters: Sequence[Parameter], tensors: Sequence[TensorEntry]
) -> None:
    """What came with updates is in no file, so it must be here."""
    if not updated:
        return
    _check_names("updated tensor", updated)
    unknown = set(updated) - {parameter.name for parameter in parameters}
    if unknown:
        raise BadManifestError(f"updated tensor {min(unknown)!r} is not one of the parameters")
    missing = set(updated) - {entry.name for entry in tensors}
    if missing:
        raise BadManifestError(f"updated tensor {min(missing)!r} is not among the tensors")


def check_blob(what: str, blob: Blob | None, segments: Sequence[int]) -> None:
    if blob is not None:
        if fault := _place_fault(blob, segments):
            raise BadManifestError(f"{what} {fault}")
        if len(blob.digest) not in (0, DIGEST_NBYTES):
            raise BadManifestError(f"{what} has a digest of {len(blob.digest)} bytes")


def extents_of(what: str, entries: Sequence[TensorEntry]) -> list[Extent]:
    """The extents of a list of tensors. Two of one list may not share a byte."""
    if not entries:
        return []
    extents = [
        Extent(e.segment, e.offset, e.offset + e.nbytes, e.digest, what, e.name)
        for e in entries
        if e.nbytes
    ]
    _check_apart(extents, may_alias=False)
    return extents


def check_apart(extents: Iterable[Extent]) -> None:
    """Extents may share bytes only when they are the same ones, with the same digest."""
    _check_apart(extents, may_alias=True)


def outside(extents: list[Extent], entries: Sequence[TensorEntry]) -> list[Extent]:
    """The extents that are not a part of one of the entries: an engine may keep several tensors in
    one entry, which is then an array of bytes."""
    if not entries:
        return extents
    pieces = sorted(
        (e.segment, e.offset, e.offset + e.nbytes)
        for e in entries
        if e.dtype == "uint8" and len(e.shape) == 1
    )

    def is_part(extent: Extent) -> bool:
        index = bisect_right(pieces, (extent.segment, extent.offset, MAX_INT)) - 1
        if index < 0:
            return False
        segment, offset, end = pieces[index]
        is_whole = (offset, end) == (extent.offset, extent.end)
        return segment == extent.segment and extent.end <= end and not is_whole

    return [extent for extent in extents if not is_part(extent)]


def blob_extents(what: str, blob: Blob | None) -> list[Extent]:
    if blob is None or not blob.nbytes:
        return []
    return [Extent(blob.segment, blob.offset, blob.offset + blob.nbytes, b"", what)]


def _check_apart(extents: Iterable[Extent], *, may_alias: bool) -> None:
    ordered = sorted(extents)
    for before, after in itertools.pairwise(ordered):
        if before.segment != after.segment or after.offset >= before.end:
            continue
        if may_alias and before.digest and before[:4] == after[:4]:
            continue
        raise BadManifestError(f"{before} and {after} overlap in segment {before.segment}")


def _check_names(what: str, names: Sequence[str]) -> None:
    if not names:
        return
    if len(names) > MAX_TENSORS:
        raise BadManifestError(f"{len(names)} entries of kind {what}; the limit is {MAX_TENSORS}")
    seen: set[str] = set()
    for name in names:
        fault = name_fault(name)
        if fault:
            raise BadManifestError(f"a {what} {fault}")
        if name in seen:
            raise BadManifestError(f"{what} {name!r} occurs twice")
        seen.add(name)


def _entry_fault(entry: TensorEntry) -> str:
    """What is wrong with a tensor itself; "" when nothing is."""
    if entry.nbytes != (nbytes := nbytes_of(entry.dtype, entry.shape)):
        return f"claims {entry.nbytes} bytes; {entry.dtype}{list(entry.shape)} is {nbytes}"
    if len(entry.digest) != DIGEST_NBYTES:
        return f"has a digest of {len(entry.digest)} bytes, not {DIGEST_NBYTES}"
    if entry.offset % ALIGNMENT:
        return f"is not aligned to {ALIGNMENT}: offset {entry.offset}"
    return ""


def _place_fault(place: TensorEntry | Blob, segments: Sequence[int]) -> str:
    """What is wrong with where it lies; "" when nothing is."""
    if not 0 <= place.segment < len(segments):
        return f"is in segment {place.segment} of {len(segments)}"
    if place.offset < 0 or place.nbytes < 0:
        return f"has a negative place: offset {place.offset}, {place.nbytes} bytes"
    end = place.offset + place.nbytes
    if end > MAX_INT:
        return f"has a place that overflows 64 bits: offset {place.offset}"
    if end > segments[place.segment]:
        return (
            f"ends at byte {end}, past the end of segment {place.segment} "
            f"({segments[place.segment]} bytes)"
        )
    if place.segment == 0 and place.offset < HEADER_NBYTES:
        return (
            f"overlaps the header: offset {place.offset}, the first {HEADER_NBYTES} bytes are taken"
        )
    return ""
