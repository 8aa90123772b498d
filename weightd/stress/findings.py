"""What a run did and found, counted from several threads; the verdict."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from weightd.errors import RefusedError, WeightdError

_MOST_TOLD = 20


@dataclass
class Findings:
    """done: actions by kind; refused: by error class; times_s: measured times by what they are of;
    notes: what people should know. violations: what may never be; one is enough to fail."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    predictions: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    times_s: dict[str, list[float]] = field(default_factory=dict)
    leaks: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def did(self, kind: str, count: int = 1) -> None:
        with self._lock:
            self.done[kind] += count

    def predicted(self, **counts: int) -> None:
        """checked, failed or torn."""
        with self._lock:
            self.predictions.update(counts)

    def met(self, error: WeightdError | str) -> None:
        """A typed error: a refusal, or no answer."""
        name = error if isinstance(error, str) else type(error).__name__
        with self._lock:
            (self.refused if is_refusal(name) else self.unanswered)[name] += 1

    def took(self, what: str, seconds: float) -> None:
        with self._lock:
            self.times_s.setdefault(what, []).append(seconds)

    def violated(self, what: str) -> None:
        with self._lock:
            self.violations[what] += 1

    def note(self, text: str) -> None:
        """Said once, however often it is found."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    @property
    def has_passed(self) -> bool:
        wrong = self.predictions["failed"] + self.predictions["torn"]
        return not self.violations and not wrong

    def line(self) -> str:
        """How the run stands, in one line."""
        with self._lock:
            wrong = sum(self.violations.values())
            return (
                f"{self.predictions['checked']:,} predictions checked, "
                f"{self.predictions['failed']} failed, {self.predictions['torn']} torn; "
                f"{self.done['publish'] + self.done['rollback']:,} publishes and rollbacks; "
                f"daemon killed {self.done['kill daemon']} times; {wrong} violations"
            )

    def document(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "passed": self.has_passed,
            "done": dict(sorted(self.done.items())),
            "predictions": {k: self.predictions[k] for k in ("checked", "failed", "torn")},
            "refused": dict(sorted(self.refused.items())),
            "unanswered": dict(sorted(self.unanswered.items())),
            "times_s": {what: summary(times) for what, times in sorted(self.times_s.items())},
            "before_and_after": {k: list(v) for k, v in sorted(self.leaks.items())},
            "notes": self.notes,
            "violations": dict(self.violations),
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """For a table: a group, a name, what it is. No predictions where nobody was to predict."""
        kinds = _PREDICTIONS if self.predictions else ()
        rows = [("predictions", k, f"{self.predictions[k]:,}") for k in kinds]
        for group, counts in (
            ("done", self.done),
            ("refused, typed", self.refused),
            ("no answer, typed", self.unanswered),
        ):
            rows += [(group, name, f"{count:,}") for name, count in sorted(counts.items())]
        for what, times in sorted(self.times_s.items()):
            rows.append(("time", what, _times_line(times)))
        for what, (before, after) in sorted(self.leaks.items()):
            rows.append(("before and after", what, f"{before:,.0f} {after:,.0f}"))
        told = self.violations.most_common(_MOST_TOLD)
        rows += [("VIOLATED", what, f"{count:,}") for what, count in told]
        if len(self.violations) > len(told):
            rows.append(("VIOLATED", "and more kinds", f"{len(self.violations) - len(told):,}"))
        return rows


_PREDICTIONS = ("checked", "failed", "torn")


def is_refusal(name: str) -> bool:
    """Whether an error of this name says that the daemon refused."""
    import weightd.errors

    kind = getattr(weightd.errors, name, None)
    return isinstance(kind, type) and issubclass(kind, RefusedError)


def summary(times_s: list[float]) -> dict[str, float]:
    ordered = sorted(times_s)
    return {
        "count": len(ordered),
        "median": median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


def _times_line(times_s: list[float]) -> str:
    found = summary(times_s)
    median_ms, p99_ms, max_ms = (1000 * found[k] for k in ("median", "p99", "max"))
    times = f"median {median_ms:.2f} ms, p99 {p99_ms:.2f}, max {max_ms:.2f}"
    return f"{found['count']:,.0f} x: {times}"
