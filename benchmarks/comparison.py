"""weightd against a floor, and whether a bar holds. Sums only: no clock, no files."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Spread:
    """The middle of some values, the range that eight in ten of them lie in, and the ends."""

    median: float
    low: float
    high: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        ordered = sorted(values)
        tenth = len(ordered) // 10
        return cls(
            statistics.median(ordered), ordered[tenth], ordered[-1 - tenth], ordered[0], ordered[-1]
        )


@dataclass(frozen=True)
class Bar:
    """What is wanted: a limit for ours / floor, or for the median of ours alone."""

    limit: float
    of: Literal["ratio", "ours"] = "ratio"
    is_least: bool = False

    @classmethod
    def at_most(cls, limit: float | None, of: Literal["ratio", "ours"] = "ratio") -> "Bar | None":
        """None where there is no limit."""
        return None if limit is None else cls(limit, of)

    @classmethod
    def at_least(cls, limit: float | None) -> "Bar | None":
        """Of the ratio; None where there is no limit."""
        return None if limit is None else cls(limit, is_least=True)


@dataclass(frozen=True)
class Comparison:
    """One row. ours and floor: values in `unit`, of the same rounds; no floor where there is none.

    measurement: as --only names it. model: as --model does, or ''. workers: how many, where more
    than one took part.
    """

    measurement: str
    what: str
    unit: str
    ours: tuple[float, ...]
    floor: tuple[float, ...] = ()
    floor_name: str = ""
    bar: Bar | None = None
    model: str = ""
    workers: int = 0

    @property
    def ratio(self) -> float | None:
        """The median over rounds of ours / floor; None without a floor."""
        if not self.floor:
            return None
        return statistics.median(a / b for a, b in zip(self.ours, self.floor, strict=True))

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None without a bar."""
        if self.bar is None:
            return None
        value = self.ratio if self.bar.of == "ratio" else statistics.median(self.ours)
        assert value is not None, "a bar of a ratio needs a floor"
        return value >= self.bar.limit if self.bar.is_least else value <= self.bar.limit
