"""What happened in the daemon's life, as numbers: it counts, and tells when asked.

Names and formats of metrics are the exporter's, a process of its own: the daemon imports no library
for them. A count costs some hundred nanoseconds, and nothing here grows with what peers send.
"""

import os
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec

from weightd.errors import WeightdError, to_wire
from weightd.ipc import counts

_STAGING_ENDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_PAUSE_ENDS_US = (10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6)


class Histogram:
    """Counts values by buckets that are fixed when it is made."""

    def __init__(self, ends: tuple[float, ...]) -> None:
        self._ends = ends
        self._counts = [0] * (len(ends) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count a value in the first bucket that ends at it or after."""
        self._counts[bisect_left(self._ends, value)] += 1
        self._total += value

    def snapshot(self) -> counts.Histogram:
        return counts.Histogram(self._ends, tuple(self._counts), self._total)


def _by_two() -> "defaultdict[str, Counter[str]]":
    return defaultdict(Counter)


def _staging_histograms() -> dict[str, Histogram]:
    return {kind: Histogram(_STAGING_ENDS_S) for kind in ("load", "publish", "update")}


class Counters(msgspec.Struct, eq=False):
    """The fields are those of Counts, which says what they are. Those without a method are set by
    whoever knows."""

    requests: "defaultdict[str, Counter[str]]" = msgspec.field(default_factory=_by_two)
    refusals: "defaultdict[str, Counter[str]]" = msgspec.field(default_factory=_by_two)
    events: "Counter[str]" = msgspec.field(default_factory=Counter)
    failures: "defaultdict[str, Counter[str]]" = msgspec.field(default_factory=_by_two)
    staging_s: dict[str, Histogram] = msgspec.field(default_factory=_staging_histograms)
    switch_pause_us: Histogram = msgspec.field(default_factory=lambda: Histogram(_PAUSE_ENDS_US))
    notices: int = 0
    not_switched: int = 0
    unfit: int = 0
    evictions: int = 0
    adoption_s: float | None = None
    adopted_versions: int = 0
    refused_adoptions: int = 0

    def requested(self, plane: str, request: object) -> None:
        """A valid request came in."""
        self.requests[plane][type(request).__name__] += 1

    def refused(self, plane: str, error: WeightdError) -> None:
        """A request, or a connection, was refused."""
        self.refusals[plane][_reason(error)] += 1

    def failed(self, kind: str, error: WeightdError) -> None:
        """Nothing came of what was being staged."""
        self.failures[kind][_reason(error)] += 1

    def snapshot(self, *, dropped: int, damaged_versions: int) -> counts.Counts:
        return counts.Counts(
            requests=_plain(self.requests),
            refusals=_plain(self.refusals),
            events=dict(self.events),
            failures=_plain(self.failures),
            staging_s={kind: h.snapshot() for kind, h in self.staging_s.items()},
            switch_pause_us=self.switch_pause_us.snapshot(),
            notices=self.notices,
            not_switched=self.not_switched,
            unfit=self.unfit,
            evictions=self.evictions,
            dropped=dropped,
            adoption_s=self.adoption_s,
            adopted_versions=self.adopted_versions,
            refused_adoptions=self.refused_adoptions,
            damaged_versions=damaged_versions,
            cpu_s=time.process_time(),
            resident_nbytes=_resident_nbytes(),
        )


def _reason(error: WeightdError) -> str:
    return to_wire(error)[0]


def _plain(found: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {name: dict(by_reason) for name, by_reason in found.items()}


def _resident_nbytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
