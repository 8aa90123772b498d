"""Everything of a version that has a digest, as places in its segments. Pure: no bytes are read."""

from typing import NamedTuple

from weightd.weights.manifest import Manifest


class Piece(NamedTuple):
    """Bytes that must have this digest. Ordered as they lie. what: for people."""

    segment: int
    offset: int
    nbytes: int
    digest: bytes
    what: str


def pieces_of(manifest: Manifest) -> list[Piece]:
    """Each place once, in the order in which they lie. What is empty cannot be wrong, and a graph
    of a version that was staged before graphs had digests is left out."""
    lists = {
        "compiled tensor": manifest.compiled,
        "tensor": manifest.tensors,
        "reference input": manifest.reference_inputs,
        "reference output": manifest.reference_outputs,
    }
    found = [
        Piece(entry.segment, entry.offset, entry.nbytes, entry.digest, f"{what} {entry.name!r}")
        for what, entries in lists.items()
        for entry in entries
    ]
    blobs = {"the graph": manifest.graph, "the source graph": manifest.source_graph}
    found += [
        Piece(blob.segment, blob.offset, blob.nbytes, blob.digest, what)
        for what, blob in blobs.items()
        if blob is not None and blob.digest
    ]
    places = {piece[:4]: piece for piece in reversed(found) if piece.nbytes}
    return sorted(places.values())
