"""What was measured, as a table for people and as JSON for programs."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import Comparison, Spread


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


def show(machine: Machine, comparisons: Sequence[Comparison]) -> None:
    """Print the table."""
    table = Table(caption="median (8 in 10 rounds lie between); ratio: median of the rounds' own")
    table.add_column("what", no_wrap=True)
    for title in ("weightd", "floor", "ratio", "bar"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("floor is")
    for row in comparisons:
        colour = "green" if row.holds else "red"
        sign = "≥" if row.higher_is_better else "≤"
        table.add_row(
            row.what,
            _text(row.ours, row.unit),
            _text(row.floor, row.unit),
            f"[{colour}]{row.ratio:.2f}[/]",
            f"{sign} {row.bar:g}",
            row.floor_name,
        )
    console = Console(width=None if os.isatty(1) else 120)
    console.print(table)
    console.print(str(machine), highlight=False)


def as_json(machine: Machine, comparisons: Sequence[Comparison]) -> str:
    rows = [
        {
            "what": row.what,
            "unit": row.unit,
            "floor_name": row.floor_name,
            "ours": asdict(Spread.of(row.ours)),
            "floor": asdict(Spread.of(row.floor)),
            "ratio": row.ratio,
            "bar": row.bar,
            "holds": row.holds,
            "rounds": len(row.ours),
        }
        for row in comparisons
    ]
    return json.dumps({"machine": asdict(machine), "comparisons": rows}, indent=2)


def _text(values: tuple[float, ...], unit: str) -> str:
    spread = Spread.of(values)
    middle, low, high = (_number(v) for v in (spread.median, spread.low, spread.high))
    return f"{middle} {unit} ({low}–{high})"  # noqa: RUF001


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
