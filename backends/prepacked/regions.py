"""The regions: where a session has its external data mapped, and whose bytes are shown there.

onnxruntime mapped a hollow file. Here its mappings are laid over with a version's own pages, at
the same addresses, and later with those of the next version:

    prepare    the next version's pages are mapped elsewhere, where a failure harms nobody
    commit     region by region: the old pages step aside, the next ones move in. On a failure all
               old ones step back. Only page tables move, so this takes a moment
    close      whatever is aside by then is unmapped

A session whose regions could not be put back must never run again.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import NamedTuple

from weightd.backends.prepacked.plan import Plan, Range, whole_pages
from weightd.errors import CompileError, PoisonedError
from weightd.ipc import linux, maps

Addresses = Mapping[str, int]  # of each piece of a version, in this process


class Region(NamedTuple):
    """Pages at which a session reads a part of one piece."""

    address: int
    nbytes: int
    piece: str
    offset: int  # within the piece


class Regions:
    """The regions of one session. Not safe from several threads; the session must not run while
    commit() does."""

    def __init__(self, plan: Plan, path: str) -> None:
        """Find what a session that was just built has mapped of the hollow file. CompileError when
        that is not everything: what is missing was copied into private memory."""
        found = maps.mappings_of(path)
        check_coverage(plan, [Range(mapping.offset, mapping.nbytes) for mapping in found])
        places = list(plan.ranges.items())
        self._regions = [region for mapping in found for region in _cut(places, mapping)]
        self._shown: Addresses = {}

    def lay(self, pieces: Addresses) -> None:
        """Show a version for the first time. On an OSError the session is of no use."""
        for region in self._regions:
            next_ = _duplicate(region, pieces)
            try:
                linux.move_mapping(next_, region.nbytes, region.address)
            except OSError:
                linux.unmap(next_, region.nbytes)
                raise
        self._shown = pieces
        self.check()

    def prepare(self, pieces: Addresses) -> "Prepared":
        """Map another version's pages elsewhere and enter them into the page table."""
        return Prepared(self._regions, pieces)

    def commit(self, prepared: "Prepared") -> None:
        """Show them in place of what is shown. On an OSError that is shown again; on a
        PoisonedError nothing is."""
        self.check()  # memory that is no longer the session's would be destroyed
        shown = self._shown
        with prepared.exchanged():
            self._shown = prepared.pieces
            try:
                self.check()
            except BaseException:
                self._shown = shown
                raise

    def are_of(self, pieces: Addresses) -> bool:
        """Whether these are the pages that are shown, mapped at other addresses, too. From here on
        they may be all that is left of them."""
        shown, self._shown = self._shown, pieces
        try:
            self.check()
        except OSError:
            self._shown = shown
            return False
        return True

    def check(self) -> None:
        """OSError unless every region shows what it should."""
        table = _Table(maps.read_maps())
        for region in self._regions:
            wanted = table.at(self._shown[region.piece] + region.offset, region.nbytes)
            if wanted is None or table.at(region.address, region.nbytes) != wanted:
                raise OSError(f"address {region.address:#x} does not show {region.piece!r}")


class Prepared:
    """The next pages of all regions, mapped elsewhere, and room for those that are shown now. Owns
    both: what lies there at the end is unmapped."""

    def __init__(self, regions: Sequence[Region], pieces: Addresses) -> None:
        self.pieces = pieces
        self._resources = ExitStack()
        self._steps: list[_Step] = []
        with self._resources:
            for region in regions:
                step = _Step(region, _duplicate(region, pieces))
                self._resources.callback(step.drop_next)
                step.aside = linux.reserve(region.nbytes, region.address)
                self._resources.callback(step.drop_aside)
                linux.populate(step.next, region.nbytes)
                self._steps.append(step)
            self._resources = self._resources.pop_all()

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Exchange all, and back again when what is done in the `with` fails. PoisonedError when
        the way back fails, too."""
        try:
            for step in self._steps:
                step.do()
            yield
        except BaseException as error:
            self._undo(error)
            raise

    def _undo(self, cause: BaseException) -> None:
        try:
            for step in self._steps:
                step.undo()
        except BaseException as error:
            raise PoisonedError(
                f"a switch failed ({cause}) and what was there could not be put back ({error}); "
                "this session cannot be used any more"
            ) from error

    def __enter__(self) -> "Prepared":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()


class _Step:
    """One region's exchange. next: where its next pages are, 0 when they moved in; aside: room for
    the old ones."""

    def __init__(self, region: Region, next_: int) -> None:
        self._region = region
        self.next = next_
        self.aside = 0
        self._is_aside = False

    def do(self) -> None:
        address, nbytes = self._region.address, self._region.nbytes
        linux.move_pages(address, nbytes, self.aside)
        self._is_aside = True
        linux.move_mapping(self.next, nbytes, address)
        self.next = 0

    def undo(self) -> None:
        if self._is_aside:
            linux.move_mapping(self.aside, self._region.nbytes, self._region.address)
            self.aside = 0

    def drop_next(self) -> None:
        if self.next:
            linux.unmap(self.next, self._region.nbytes)

    def drop_aside(self) -> None:
        if self.aside:
            linux.unmap(self.aside, self._region.nbytes)


def _duplicate(region: Region, pieces: Addresses) -> int:
    source = pieces[region.piece] + region.offset
    return linux.duplicate_mapping(source, region.nbytes, region.address)


class _Table:
    """What is mapped, to be looked up by address."""

    def __init__(self, mappings: list[maps.Mapping]) -> None:
        self._mappings = mappings
        self._starts = [mapping.start for mapping in mappings]

    def at(self, address: int, nbytes: int) -> tuple[str, int, int] | None:
        """The device, inode and offset of the file behind these bytes; None when it is not one."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        first = self._mappings[index]
        offset = address - first.start + first.offset
        end = address
        for mapping in self._mappings[index:]:
            is_next = mapping.start <= end and mapping.file == first.file
            if not is_next or end - mapping.start + mapping.offset != offset + end - address:
                return None
            end = mapping.end
            if end >= address + nbytes:
                return *first.file, offset
        return None


def check_coverage(plan: Plan, mapped: Sequence[Range]) -> None:
    """CompileError unless the session maps all that it must and nothing that it must not."""
    is_mapped = _containment(mapped)
    for weight in plan.externals:
        is_packed = bool(weight.packed)
        is_dummy = plan.dummy.offset <= weight.raw.offset < plan.dummy.end
        if is_packed and not all(map(is_mapped, weight.packed)):
            raise CompileError(f"onnxruntime packed weight {weight.name!r} into private memory")
        if is_dummy and is_mapped(weight.raw):
            raise CompileError(f"onnxruntime would read weight {weight.name!r} unpacked")
        if not is_packed and not is_mapped(weight.raw):
            raise CompileError(f"onnxruntime copied weight {weight.name!r} into private memory")


def _containment(mapped: Sequence[Range]) -> Callable[[Range], bool]:
    """Whether one of the mapped ranges contains another range."""
    ordered = sorted(mapped)
    starts = [one.offset for one in ordered]
    ends: list[int] = []  # the farthest end of all that begin at or before this one
    for one in ordered:
        ends.append(max(one.end, ends[-1] if ends else 0))

    def contains(wanted: Range) -> bool:
        index = bisect_right(starts, wanted.offset) - 1
        return index >= 0 and ends[index] >= wanted.end

    return contains


def _cut(places: Sequence[tuple[str, Range]], mapping: maps.Mapping) -> Iterator[Region]:
    """One region for each piece that a mapping shows a part of; the dummy is nobody's."""
    last = mapping.offset + whole_pages(mapping.nbytes)
    first = bisect_right(places, mapping.offset, key=lambda named: named[1].end)
    for name, place in islice(places, first, None):
        if place.offset >= last:
            return
        start, end = max(mapping.offset, place.offset), min(last, place.end)
        address = mapping.start + start - mapping.offset
        yield Region(address, end - start, name, start - place.offset)
