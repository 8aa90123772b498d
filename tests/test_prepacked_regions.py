"""A switch in place that fails at any step: the old version is whole and answers, bit for bit; or,
when even that cannot be had, nothing answers until a new session is opened."""

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.pairs import Pair, core_of, entry_named, number_of_maps, paired
from weightd.backends.prepacked.plan import External, Piece, Plan, Range
from weightd.backends.prepacked.regions import check_coverage
from weightd.errors import CompileError, EngineMismatchError, PoisonedError, WeightdError
from weightd.ipc import linux


@pytest.fixture(scope="module")
def residual() -> Iterator[Pair]:
    """It has several regions: packed matrices, plain ones, and the small tensors."""
    with paired(entry_named("residual")) as pair:
        yield pair


@pytest.fixture(scope="module")
def kept() -> Iterator[Pair]:
    """The same with its original tensors, so that the plain engine can take over."""
    with paired(entry_named("residual"), keep_tensors=True) as pair:
        yield pair


class Failing:
    """Fails the calls of these numbers, counted from 1; the others go through to the kernel."""

    def __init__(self, real: Callable[..., Any], numbers: range, code: int) -> None:
        self._real = real
        self._numbers = numbers
        self._code = code
        self.calls = 0

    def __call__(self, *arguments: int) -> Any:
        self.calls += 1
        if self.calls in self._numbers:
            self.fail(*arguments)
        return self._real(*arguments)

    def fail(self, *arguments: int) -> None:
        del arguments
        raise OSError(self._code, os.strerror(self._code))


class FailingCruelly(Failing):
    """Of move_mapping: leaves nothing where the mapping should have gone, as mremap(2) may."""

    def fail(self, *arguments: int) -> None:
        _, nbytes, to = arguments
        linux.unmap(to, nbytes)
        super().fail()


def only(number: int) -> range:
    return range(number, number + 1)


def from_(number: int) -> range:
    return range(number, 1_000_000)


def failing_moves(
    patch: pytest.MonkeyPatch,
    numbers: range,
    kind: type[Failing] = Failing,
    step: str = "move_mapping",
) -> Failing:
    failing = kind(getattr(linux, step), numbers, errno.ENOMEM)
    patch.setattr(linux, step, failing)
    return failing


def failing_copies(patch: pytest.MonkeyPatch, numbers: range) -> Failing:
    failing = Failing(linux.duplicate_mapping, numbers, errno.EAGAIN)
    patch.setattr(linux, "duplicate_mapping", failing)
    return failing


def moves_of_a_switch(pair: Pair) -> int:
    """How many mappings are moved in one switch."""
    core = core_of(pair.open_packed(1))
    with pytest.MonkeyPatch.context() as patch:
        failing = failing_moves(patch, range(0))
        core.show(pair.map(2))
    return failing.calls


def test_a_switch_of_the_model_of_these_tests_has_several_steps(residual: Pair) -> None:
    assert moves_of_a_switch(residual) >= 3


@pytest.mark.parametrize(
    ("step", "kind"),
    [("move_pages", Failing), ("move_mapping", Failing), ("move_mapping", FailingCruelly)],
)
def test_a_switch_that_fails_is_put_back_wherever_it_fails(
    residual: Pair, step: str, kind: type[Failing]
) -> None:
    core = core_of(residual.open_packed(1))
    maps = number_of_maps()
    for number in range(1, moves_of_a_switch(residual) + 1):
        with pytest.MonkeyPatch.context() as patch:
            failing_moves(patch, only(number), kind, step)
            with pytest.raises(OSError, match="Cannot allocate memory"):
                core.show(residual.map(2))
        assert (core.version.number, residual.run(core)) == (1, 1)
        assert number_of_maps() <= maps
    core.show(residual.map(2))
    assert residual.run(core) == 2


def test_a_session_whose_switch_in_place_failed_opens_a_new_one_aside(residual: Pair) -> None:
    for number in range(1, moves_of_a_switch(residual) + 1):
        session = residual.open_packed(1)
        core = core_of(session)
        with pytest.MonkeyPatch.context() as patch:
            failing_moves(patch, only(number))
            session.swap(residual.map(2))
        assert core_of(session) is not core
        assert (core_of(session).version.number, residual.run(session)) == (2, 2)
        session.close()


def test_where_nothing_can_be_put_back_no_run_gives_an_answer(residual: Pair) -> None:
    for number in range(1, moves_of_a_switch(residual) + 1):
        core = core_of(residual.open_packed(1))
        with pytest.MonkeyPatch.context() as patch:
            failing_moves(patch, from_(number))
            with pytest.raises(PoisonedError, match="cannot be used any more"):
                core.show(residual.map(2))
        for _ in range(2):
            with pytest.raises(PoisonedError, match="cannot be used any more"):
                residual.run(core)


def test_a_poisoned_session_is_healed_by_the_next_switch(residual: Pair) -> None:
    session = residual.open_packed(1)
    with pytest.MonkeyPatch.context() as patch:
        failing_moves(patch, from_(2))
        with pytest.raises(WeightdError):
            session.swap(residual.map(2))
    with pytest.raises(PoisonedError):
        residual.run(session)
    session.swap(residual.map(2))
    assert residual.run(session) == 2
    session.swap(residual.map(1))
    assert residual.run(session) == 1
    session.close()


def test_a_session_that_is_poisoned_and_shown_its_own_version_again_is_healed(
    residual: Pair,
) -> None:
    session = residual.open_packed(1)
    with pytest.MonkeyPatch.context() as patch:
        failing_moves(patch, from_(2))
        with pytest.raises(WeightdError):
            session.swap(residual.map(2))
    session.swap(residual.map(1))
    assert residual.run(session) == 1
    session.close()


def test_memory_that_cannot_be_mapped_changes_nothing_and_leaves_nothing(residual: Pair) -> None:
    """As after mlockall(MCL_FUTURE) with a limit."""
    core = core_of(residual.open_packed(1))
    newer = residual.map(2)
    maps = number_of_maps()
    for number in range(1, moves_of_a_switch(residual) + 1):
        with pytest.MonkeyPatch.context() as patch:
            failing_copies(patch, only(number))
            with pytest.raises(OSError, match="temporarily unavailable"):
                core.show(newer)
        assert number_of_maps() == maps
        assert (core.version.number, residual.run(core)) == (1, 1)
    core.show(newer)
    assert residual.run(core) == 2


def test_a_session_for_which_nothing_can_be_mapped_stays_on_its_version_and_says_so(
    residual: Pair,
) -> None:
    session = residual.open_packed(1)
    newer = residual.map(2)
    maps = number_of_maps()
    with pytest.MonkeyPatch.context() as patch:
        failing_copies(patch, from_(1))
        with pytest.raises(EngineMismatchError, match="temporarily unavailable"):
            session.swap(newer)
        assert residual.run(session) == 1
    assert number_of_maps() == maps
    session.swap(newer)
    assert residual.run(session) == 2
    session.close()


def test_a_version_for_which_nothing_can_be_mapped_is_opened_by_the_plain_engine(
    kept: Pair,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing_copies(patch, from_(1))
        session = kept.open(1)
    assert session.engine == "plain"
    assert "temporarily unavailable" in session.note
    session.close()


# --- coverage ----------------------------------------------------------------------------

PAGE = 4096
PACKED, PLAIN, DUMMY = Range(0, PAGE), Range(PAGE, PAGE), Range(2 * PAGE, 100)
PLAN = Plan(
    pieces=(Piece("a/packed0.0", PAGE, is_read=False), Piece("b", PAGE, is_read=False)),
    externals=(External("a", DUMMY, (PACKED,)), External("b", PLAIN, ())),
    dummies=1,
    dummy_nbytes=100,
    is_swappable=True,
)


def test_a_session_that_maps_what_it_must_is_accepted() -> None:
    check_coverage(PLAN, [PACKED, PLAIN])
    check_coverage(PLAN, [Range(0, 2 * PAGE)])  # the kernel makes one of two neighbours


@pytest.mark.parametrize(
    ("mapped", "fault"),
    [
        ([PLAIN], "packed weight 'a' into private memory"),
        ([Range(0, PAGE // 2), PLAIN], "packed weight 'a' into private memory"),
        ([], "packed weight 'a' into private memory"),
        ([PACKED, PLAIN, Range(2 * PAGE, PAGE)], "read weight 'a' unpacked"),
        ([PACKED], "copied weight 'b' into private memory"),
        ([PACKED, Range(PAGE, PAGE - 1)], "copied weight 'b' into private memory"),
        ([PACKED, Range(PAGE + 1, PAGE)], "copied weight 'b' into private memory"),
    ],
)
def test_a_session_that_copied_a_weight_or_reads_a_dummy_is_refused_by_name(
    mapped: list[Range], fault: str
) -> None:
    with pytest.raises(CompileError, match=fault):
        check_coverage(PLAN, mapped)
