"""Which pieces the weights of a saved graph make, and what the graph will say of each.

The first question is who needs which form of a weight:

    packed for its one use        a dummy: its packed forms are pieces, its plain one is nobody's
    packed, and used elsewhere    keyed: both forms are pieces, the plain one real from the start
    plain and large               a piece of its own
    plain and small               in the one piece of all small ones, real from the start
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from weightd.backends.prepacked.graph import Packed, SavedGraph, Weight
from weightd.backends.prepacked.plan import (
    LINE_NBYTES,
    OURS,
    PAGE_NBYTES,
    SMALL,
    External,
    Piece,
    Plan,
    Range,
    whole_pages,
)
from weightd.weights.arena import Arena
from weightd.weights.source import TensorSpec

_SMALL_NBYTES = 64 * 1024

Read = Callable[[int, int], bytes]  # nbytes, offset


class Part(NamedTuple):
    """One piece and its bytes, or where they are in the file that onnxruntime left."""

    piece: Piece
    spec: TensorSpec
    source: Range | bytes


@dataclass(frozen=True)
class Layout:
    """raw: at which offset the graph names each weight's plain form. packed: its packed forms, as
    onnxruntime described them, at their new offsets. dummies: whose keys are to be learnt, each
    with the operator that packs it. small: where in the small piece each small weight lies. unused:
    where the plain forms that nobody reads are in onnxruntime's file."""

    plan: Plan
    parts: tuple[Part, ...]
    raw: Mapping[str, int]
    packed: Mapping[str, tuple[Packed, ...]]
    dummies: Mapping[str, str]
    small: Mapping[str, int]
    unused: tuple[Range, ...]

    def with_keys(self, keys: Mapping[str, str]) -> dict[str, tuple[Packed, ...]]:
        """The packed forms, the dummies' under these keys."""
        return {
            name: tuple(entry._replace(key=keys.get(name, entry.key)) for entry in entries)
            for name, entries in self.packed.items()
        }

    def read_while_built(self, read: Read) -> dict[int, bytes]:
        """What kernels read while a session is built, by its offset."""
        ranges = self.plan.ranges
        real = {
            ranges[part.piece.name].offset: _bytes(part.source, read)
            for part in self.parts
            if part.piece.is_read
        }
        return real | {self.plan.dummy.offset: self.plan.dummy_lines()}


def lay_out(graph: SavedGraph, read: Read) -> Layout:
    """The layout of a graph that onnxruntime saved. read: of the file in which it left weights."""
    sorted_ = _Sorted.of(_with_twins(graph.weights, read), graph.has_subgraphs)
    small, small_part = _small_part(sorted_.small, read)
    parts = (*_parts(sorted_, read, is_read=graph.has_subgraphs), small_part)
    ranges = Plan.ranges_of(part.piece for part in parts)
    dummy = ranges[SMALL].end
    raw = {
        **{w.name: dummy + LINE_NBYTES * i for i, w in enumerate(sorted_.dummies)},
        **{w.name: ranges[w.name].offset for w in (*sorted_.keyed, *sorted_.large)},
        **{w.name: ranges[SMALL].offset + small[w.name] for w in sorted_.small},
    }
    packed = {w.name: _moved(w, ranges) for w in sorted_.packed}
    plan = Plan(
        pieces=tuple(part.piece for part in parts),
        externals=tuple(_external(w, raw[w.name], packed) for w in sorted_.all),
        dummies=len(sorted_.dummies),
        dummy_nbytes=max((w.raw.nbytes for w in sorted_.dummies), default=0),
        is_swappable=not graph.has_subgraphs,
    )
    return Layout(
        plan,
        parts,
        raw,
        packed,
        dummies={w.name: (w.use or "").partition(":")[0] for w in sorted_.dummies},
        small=small,
        unused=tuple(w.raw for w in sorted_.dummies),
    )


class _Sorted(NamedTuple):
    """The weights of a graph by the forms that they run in."""

    dummies: list[Weight]
    keyed: list[Weight]
    large: list[Weight]
    small: list[Weight]

    @classmethod
    def of(cls, weights: Iterable[Weight], has_subgraphs: bool) -> "_Sorted":
        sorted_ = cls([], [], [], [])
        for weight in weights:
            is_single = weight.use is not None and len(weight.packed) == 1
            if weight.packed:
                kind = sorted_.dummies if is_single and not has_subgraphs else sorted_.keyed
            else:
                kind = sorted_.small if weight.raw.nbytes < _SMALL_NBYTES else sorted_.large
            kind.append(weight)
        return sorted_

    @property
    def packed(self) -> list[Weight]:
        return self.dummies + self.keyed

    @property
    def all(self) -> list[Weight]:
        return self.dummies + self.keyed + self.large + self.small


def _with_twins(weights: Iterable[Weight], read: Read) -> list[Weight]:
    """Of weights with the same bytes in the same role onnxruntime describes one packed form only:
    it is that of all."""
    weights = list(weights)
    described = [weight for weight in weights if weight.use and weight.packed]
    return [_as_twin(weight, described, read) for weight in weights]


def _as_twin(weight: Weight, described: list[Weight], read: Read) -> Weight:
    if weight.packed or weight.use is None:
        return weight
    for other in described:
        is_alike = (weight.use, weight.dtype, weight.shape) == (other.use, other.dtype, other.shape)
        if is_alike and _bytes(weight.raw, read) == _bytes(other.raw, read):
            return weight._replace(packed=other.packed)
    return weight


def _parts(weights: _Sorted, read: Read, *, is_read: bool) -> list[Part]:
    """All pieces but the small one. is_read: kernels may read any of them while they are built."""
    packed = [
        _part(TensorSpec(name, "uint8", (place.nbytes,)), place, read, is_read=False)
        for weight in weights.packed
        for name, place in _buffers(weight)
    ]
    keyed = [_part(w.spec, w.raw, read, is_read=True) for w in weights.keyed]
    large = [_part(w.spec, w.raw, read, is_read=is_read) for w in weights.large]
    return packed + keyed + large


def _part(spec: TensorSpec, source: Range, read: Read, *, is_read: bool) -> Part:
    """A piece; one of less than a page is filled up to one, since it is mapped by itself."""
    if source.nbytes >= PAGE_NBYTES:
        return Part(Piece(spec.name, source.nbytes, is_read), spec, source)
    filled = _bytes(source, read).ljust(PAGE_NBYTES, b"\0")
    piece = Piece(spec.name, PAGE_NBYTES, is_read)
    return Part(piece, TensorSpec(spec.name, "uint8", (PAGE_NBYTES,)), filled)


def _small_part(weights: list[Weight], read: Read) -> tuple[dict[str, int], Part]:
    """Where in it each small weight lies, and the piece."""
    arena = Arena(start=0)
    offsets = {weight.name: arena.place(weight.raw.nbytes) for weight in weights}
    content = bytearray(max(whole_pages(arena.nbytes), whole_pages(1)))
    for weight in weights:
        start = offsets[weight.name]
        content[start : start + weight.raw.nbytes] = _bytes(weight.raw, read)
    piece = Piece(SMALL, len(content), is_read=True)
    return offsets, Part(piece, TensorSpec(SMALL, "uint8", (len(content),)), bytes(content))


def _buffers(weight: Weight) -> list[tuple[str, Range]]:
    """The packed buffers of a weight, each with the name of its piece."""
    return [
        (f"{OURS}packed:{weight.name}:{number}.{index}", buffer.place)
        for number, entry in enumerate(weight.packed)
        for index, buffer in enumerate(entry.buffers)
    ]


def _moved(weight: Weight, ranges: Mapping[str, Range]) -> tuple[Packed, ...]:
    """A weight's entries with their buffers at the offsets of their pieces."""
    names = iter(name for name, _ in _buffers(weight))
    return tuple(
        entry._replace(
            buffers=tuple(
                buffer._replace(place=Range(ranges[next(names)].offset, buffer.place.nbytes))
                for buffer in entry.buffers
            )
        )
        for entry in weight.packed
    )


def _external(weight: Weight, raw: int, packed: Mapping[str, tuple[Packed, ...]]) -> External:
    entries = packed.get(weight.name, ())
    return External(
        weight.name,
        Range(raw, weight.raw.nbytes),
        tuple(buffer.place for entry in entries for buffer in entry.buffers),
    )


def _bytes(source: Range | bytes, read: Read) -> bytes:
    return source if isinstance(source, bytes) else read(source.nbytes, source.offset)
