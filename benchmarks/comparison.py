"""Two ways to do one thing, measured in turns so that the machine's noise hits both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Measure = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """weightd against a floor. ours and floor: one value a round, in `unit`, of the same rounds.

    bar: what ours / floor should at most be, at least where higher_is_better.
    """

    what: str
    unit: str
    floor_name: str
    ours: tuple[float, ...]
    floor: tuple[float, ...]
    bar: float
    higher_is_better: bool = False

    @property
    def ratio(self) -> float:
        """The median over rounds of ours / floor."""
        return statistics.median(a / b for a, b in zip(self.ours, self.floor, strict=True))

    @property
    def holds(self) -> bool:
        return self.ratio >= self.bar if self.higher_is_better else self.ratio <= self.bar


@dataclass(frozen=True)
class Spread:
    """The middle of some values, and the range that eight in ten of them lie in."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> "Spread":
        ordered = sorted(values)
        tenth = len(ordered) // 10
        return cls(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth])


def in_turns(
    ours: Measure, floor: Measure, *, rounds: int, warmup: int = 1
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure both, one after the other and each first in half of the rounds."""
    for _ in range(warmup):
        ours()
        floor()
    pairs = []
    for number in range(rounds):
        if number % 2:
            theirs = floor()
            pairs.append((ours(), theirs))
        else:
            mine = ours()
            pairs.append((mine, floor()))
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
