"""What was measured, as rows for people and as a document for programs."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weightd.benchmarks.comparison import Bar, Comparison, Spread
from weightd.benchmarks.main import Findings

COLUMNS = ("what", "weightd>", "floor>", "ratio>", "bar>", "holds", "floor is")
LEGEND = "medians, (8 in 10 values lie between); ratio: the median of the rounds' own"
_HOLDS = {True: "ok", False: "fail", None: ""}


@dataclass(frozen=True)
class Machine:
    """Where and when it was measured."""

    date: str
    cpu: str
    cores: int
    kernel: str
    python: str
    onnxruntime: str

    @classmethod
    def here(cls) -> "Machine":
        return cls(
            date=datetime.now(UTC).date().isoformat(),
            cpu=_cpu_name(),
            cores=len(os.sched_getaffinity(0)),
            kernel=platform.release(),
            python=platform.python_version(),
            onnxruntime=version("onnxruntime"),
        )

    def __str__(self) -> str:
        return (
            f"{self.date}, {self.cpu}, {self.cores} cores, Linux {self.kernel}, "
            f"Python {self.python}, onnxruntime {self.onnxruntime}"
        )


def row(comparison: Comparison) -> tuple[str, ...]:
    """The cells of one line, as COLUMNS names them."""
    ratio = comparison.ratio
    return (
        comparison.what,
        _text(comparison.ours, comparison.unit),
        _text(comparison.floor, comparison.unit) if comparison.floor else "",
        "" if ratio is None else f"{ratio:.2f}",
        _bar(comparison.bar, comparison.unit),
        _HOLDS[comparison.holds],
        comparison.floor_name,
    )


def notes(machine: Machine, findings: Findings) -> list[str]:
    """The lines below the table."""
    engines = ", ".join(f"{name} by {engine}" for name, engine in findings.engines.items())
    notes = [f"note: {note}" for note in findings.notes]
    missing = [f"skipped: {what}" for what in findings.skipped]
    missing += [f"failed: {what}" for what in findings.failed]
    return [LEGEND, *([f"engines: {engines}"] if engines else []), *notes, *missing, str(machine)]


def document(machine: Machine, findings: Findings) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "machine": asdict(machine),
        "engines": findings.engines,
        "comparisons": [_plain(comparison) for comparison in findings.comparisons],
        "notes": findings.notes,
        "skipped": findings.skipped,
        "failed": findings.failed,
        "holds": not missed(findings),
    }


def missed(findings: Findings) -> list[Comparison]:
    """The rows whose bar is not reached."""
    return [comparison for comparison in findings.comparisons if comparison.holds is False]


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        "measurement": comparison.measurement,
        "what": comparison.what,
        "model": comparison.model,
        "workers": comparison.workers,
        "unit": comparison.unit,
        "ours": asdict(Spread.of(comparison.ours)),
        "floor": asdict(Spread.of(comparison.floor)) if comparison.floor else None,
        "floor_name": comparison.floor_name,
        "ratio": comparison.ratio,
        "bar": asdict(comparison.bar) if comparison.bar else None,
        "holds": comparison.holds,
        "values": len(comparison.ours),
    }


def _text(values: tuple[float, ...], unit: str) -> str:
    spread = Spread.of(values)
    factor, unit = _scaled(spread.median, unit)
    middle, low, high = (_number(v * factor) for v in (spread.median, spread.low, spread.high))
    return f"{middle} {unit}".rstrip() + (f" ({low} to {high})" if low != high else "")


def _bar(bar: Bar | None, unit: str) -> str:
    if bar is None:
        return ""
    factor, unit = _scaled(bar.limit, unit) if bar.of == "ours" else (1.0, "")
    sign = "≥" if bar.is_least else "≤"
    return f"{sign} {_number(bar.limit * factor)} {unit}".rstrip()


def _scaled(value: float, unit: str) -> tuple[float, str]:
    """Seconds as people say them; anything else as it is."""
    if unit != "s" or value >= 1:
        return 1.0, unit
    return (1e3, "ms") if value >= 1e-3 else (1e6, "µs")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
