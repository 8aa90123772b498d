"""audit.py: a line for each decision, and a flood told in few."""

import pytest

from weightd.daemon.audit import LINES, WINDOW_S, Tally, line


def told(tally: Tally, uid: int, now_s: float, *, count: int = 1, what: str = "attach") -> int:
    return sum(tally.is_told(uid, what, "refused", now_s) for _ in range(count))


def test_a_flood_gets_so_many_lines_and_then_a_number() -> None:
    tally = Tally()
    assert told(tally, 1000, 0.0, count=100_000) == LINES
    assert tally.end_windows(WINDOW_S - 0.1) == []
    assert tally.end_windows(WINDOW_S) == [((1000, "attach", "refused"), 100_000 - LINES)]
    assert tally.is_empty
    assert told(tally, 1000, WINDOW_S, count=100) == LINES


def test_a_flood_hides_no_other_users_and_no_other_requests() -> None:
    tally = Tally()
    told(tally, 1000, 0.0, count=1000)
    assert told(tally, 1001, 0.0) == 1
    assert told(tally, 1000, 0.0, what="allow") == 1
    assert tally.is_told(1000, "attach", "granted", 0.0)


def test_who_stays_below_the_limit_is_not_mentioned_again() -> None:
    tally = Tally()
    told(tally, 1000, 0.0, count=LINES)
    assert tally.end_windows(WINDOW_S) == []
    assert tally.is_empty


def test_a_flood_of_users_takes_bounded_memory_and_a_bounded_number_of_lines() -> None:
    tally = Tally()
    lines = sum(told(tally, uid, 0.0) for uid in range(100_000))
    assert lines == 1024 + LINES
    assert len(tally._counts) == 1025
    assert tally.end_windows(WINDOW_S) == [((None, "attach", "refused"), 100_000 - lines)]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("lenet", "reason=lenet"),
        ("unit:a@*.service", "reason=unit:a@*.service"),
        ("two words", 'reason="two words"'),
        ('a "quote" and \\', r'reason="a \"quote\" and \\"'),
        ("line\nuid=0 \x1b[31m", 'reason="line uid=0  [31m"'),
        ("x" * 1000, "reason=" + "x" * 400),
        ("", ""),
    ],
)
def test_a_value_cannot_break_out_of_its_line(value: str, written: str) -> None:
    assert line(reason=value) == written
