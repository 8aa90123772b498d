"""`weightd stress --frames`: how many mutated frames each socket gets, and whether it got them."""

from collections.abc import Iterator
from itertools import chain, repeat
from random import Random

import pytest

from weightd.stress.findings import Findings
from weightd.stress.fuzzing import SOCKETS, Fuzzing, shares
from weightd.stress.stage import Stage


@pytest.fixture
def findings() -> Findings:
    return Findings(1)


@pytest.fixture
def fuzzing(stage: Stage, findings: Findings) -> Iterator[Fuzzing]:
    made = Fuzzing(stage, findings)
    yield made
    made.close()


def sent(findings: Findings) -> dict[str, int]:
    """How many frames each socket got that was sent any."""
    beginning = "mutated frame to "
    return {
        kind.removeprefix(beginning): count
        for kind, count in findings.done.items()
        if kind.startswith(beginning)
    }


def test_each_socket_has_an_equal_share_and_the_first_ones_the_rest() -> None:
    assert shares(10) == dict.fromkeys(SOCKETS, 2)
    assert list(shares(13).values()) == [3, 3, 3, 2, 2]
    assert list(shares(3).values()) == [1, 1, 1, 0, 0]
    assert sum(shares(1_000_001).values()) == 1_000_001


@pytest.mark.parametrize("frames", [3, 13, 10_500])
def test_every_socket_is_sent_its_share(frames: int, fuzzing: Fuzzing, findings: Findings) -> None:
    fuzzing.send(frames, Random(1), lambda: True)
    assert sent(findings) == {name: count for name, count in shares(frames).items() if count}
    assert findings.has_passed


def test_a_time_too_short_for_any_frame_fails_the_run(fuzzing: Fuzzing, findings: Findings) -> None:
    fuzzing.send(10, Random(1), lambda: False)
    assert sent(findings) == {}
    assert list(findings.violations) == ["only 0 of 10 frames were sent: the time was up"]


def test_a_time_too_short_for_all_frames_fails_the_run_with_the_numbers(
    fuzzing: Fuzzing, findings: Findings
) -> None:
    looks = chain([True], repeat(False))
    fuzzing.send(1_000_000, Random(1), lambda: next(looks))
    count = sum(sent(findings).values())
    assert 0 < count < 1_000_000
    (fault,) = findings.violations
    assert fault == f"only {count:,} of 1,000,000 frames were sent: the time was up"
