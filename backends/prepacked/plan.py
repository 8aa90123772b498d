"""The plan: how the weights of one graph lie in the one file that onnxruntime believes them to be.

    | piece | piece | … | dummy |        offsets of the graph's external data count from here

A piece is what can be mapped by itself: a packed matrix, a large tensor, or all small tensors
together. The dummy stands in for the unpacked form of every packed matrix, which nobody reads.

A plan depends on names, dtypes and shapes alone, so two versions of a model have the same one; it
lies in their segments, beside the graph. Where the pieces really are is the manifest's business.
"""

import os
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from weightd.errors import BadManifestError, BadRequestError, CompileError
from weightd.ipc import protocol
from weightd.weights.dtypes import MAX_INT

PAGE_NBYTES = 4096
LINE_NBYTES = 64  # two dummies differ in a line
OURS = "weightd:"  # how the name of what is no tensor of the model's begins
PLAN = f"{OURS}plan"
SMALL = f"{OURS}small"
_MAX_NBYTES = 64 * 2**20


class Range(NamedTuple):
    """Bytes of the file."""

    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the file, by the name that the manifest has for it. is_read: kernels read it while
    the session is built, so its bytes must be in the file."""

    name: str
    nbytes: int
    is_read: bool


class External(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a session must have mapped when it is built, or it has made a private copy: a weight as
    it is (unless its place is in the dummy), and its packed forms."""

    name: str
    raw: Range
    packed: tuple[Range, ...]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Everything that a worker must know besides the graph. dummies: how many weights share the
    dummy; dummy_nbytes: the size of the largest. is_swappable: whether other bytes may be shown to
    a session that is open; not where a branch that nobody took could have kept something."""

    pieces: tuple[Piece, ...]
    externals: tuple[External, ...]
    dummies: int
    dummy_nbytes: int
    is_swappable: bool

    def encode(self) -> bytes:
        return protocol.pack(msgspec.to_builtins(self))

    @classmethod
    def decode(cls, raw: bytes) -> "Plan":
        try:
            plan = protocol.convert(protocol.unpack(raw, max_nbytes=_MAX_NBYTES), cls)
        except BadRequestError as error:
            raise BadManifestError(f"the plan of a version cannot be read: {error}") from error
        sizes = [piece.nbytes for piece in plan.pieces] + [plan.dummies, plan.dummy_nbytes]
        if min(sizes) < 0 or sum(sizes) > MAX_INT // PAGE_NBYTES:
            raise BadManifestError("the plan of a version has impossible sizes")
        return plan

    @staticmethod
    def ranges_of(pieces: Iterable[Piece]) -> dict[str, Range]:
        """Where each piece lies, by name: whole pages, in the order of the pieces."""
        ranges: dict[str, Range] = {}
        start = 0
        for piece in pieces:
            ranges[piece.name] = Range(start, whole_pages(piece.nbytes))
            start = ranges[piece.name].end
        return ranges

    @cached_property
    def ranges(self) -> dict[str, Range]:
        return self.ranges_of(self.pieces)

    @cached_property
    def dummy(self) -> Range:
        """Where the dummy lies, behind the last piece: dummy i begins i lines into it."""
        start = sum(whole_pages(piece.nbytes) for piece in self.pieces)
        nbytes = self.dummy_nbytes + LINE_NBYTES * (self.dummies + 1) if self.dummies else 0
        return Range(start, whole_pages(nbytes))

    def dummy_lines(self) -> bytes:
        """The first bytes of the dummy. Every line differs from all others, so that every weight
        that begins at one does; behind them are zeros."""
        numbers = np.arange(1, self.dummies + 1, dtype=np.float32)
        return np.repeat(numbers, LINE_NBYTES // numbers.itemsize).tobytes()


def check_page_size() -> None:
    """CompileError on a machine whose pages are not of the size that pieces are laid out for."""
    if (nbytes := os.sysconf("SC_PAGESIZE")) != PAGE_NBYTES:
        raise CompileError(
            f"packed weights are mapped by pages of {PAGE_NBYTES} bytes; this machine has {nbytes}"
        )


def whole_pages(nbytes: int) -> int:
    return -(-nbytes // PAGE_NBYTES) * PAGE_NBYTES
