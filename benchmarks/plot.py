"""The picture: memory over workers, and what predictions took while versions were published.

The only file that imports matplotlib, which weightd itself does not need.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weightd.benchmarks.comparison import Comparison
from weightd.benchmarks.main import Findings
from weightd.benchmarks.plan import Plan
from weightd.benchmarks.swap import Timeline
from weightd.errors import BadFileError, SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = ("memory", "swap")
_INSTALL = "pip install 'weightd[bench]'"
_WIDTH_IN, _HEIGHT_IN, _DPI = 8.0, 3.6, 120
_MOMENTS = 400  # along a timeline; what happened within one is drawn as its slowest prediction
_MS = 1e3


def check(target: Path, plan: Plan) -> None:
    """SettingsError when nothing could be drawn there: said before an hour is measured."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError(f"--plot needs matplotlib: {_INSTALL}") from error
    if not set(DRAWN) & set(plan.measurements):
        raise SettingsError(f"--plot draws {' and '.join(DRAWN)}; --only leaves them out")
    kinds = Figure().canvas.get_supported_filetypes()
    if target.suffix.removeprefix(".") not in kinds:
        raise SettingsError(f"--plot {target} ends in none of {', '.join(sorted(kinds))}")
    if not target.absolute().parent.is_dir():
        raise SettingsError(f"--plot {target}: there is no folder {target.absolute().parent}")


def draw(findings: Findings, target: Path) -> None:
    """Write the picture. BadFileError when it cannot be written."""
    from matplotlib.figure import Figure

    memory = [row for row in findings.comparisons if row.measurement == "memory" and row.workers]
    count = bool(memory) + len(findings.timelines)
    if not count:
        raise SettingsError("--plot has nothing to draw: memory and swap were skipped")
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN * count), layout="constrained")
    panels = list(figure.subplots(count, squeeze=False).flat)
    if memory:
        _draw_memory(panels.pop(0), memory)
    for axes, timeline in zip(panels, findings.timelines, strict=True):
        _draw_timeline(axes, timeline)
    try:
        figure.savefig(target, dpi=_DPI)
    except OSError as error:
        raise BadFileError(f"cannot write {target}: {error}") from error


def _draw_memory(axes: "Axes", rows: list[Comparison]) -> None:
    for index, model in enumerate(dict.fromkeys(row.model for row in rows)):
        mine = [row for row in rows if row.model == model]
        counts = [row.workers for row in mine]
        colour = f"C{index}"
        ours = [float(np.median(row.ours)) for row in mine]
        floor = [float(np.median(row.floor)) for row in mine]
        axes.plot(counts, floor, "o--", color=colour, label=f"{model}, private sessions")
        axes.plot(counts, ours, "o-", color=colour, label=f"{model}, weightd")
    axes.set(xlabel="workers", ylabel="memory (sum of PSS), MiB", title="Memory", ylim=(0, None))
    axes.set_xticks(sorted({row.workers for row in rows}))
    axes.legend(fontsize="small")


def _draw_timeline(axes: "Axes", timeline: Timeline) -> None:
    start_s = float(timeline.began_s.min())
    edges = np.linspace(start_s, float(timeline.began_s.max()), _MOMENTS + 1)
    moment = np.clip(np.searchsorted(edges, timeline.began_s, side="right") - 1, 0, _MOMENTS - 1)
    slowest = np.zeros(_MOMENTS)
    np.maximum.at(slowest, moment, timeline.took_s)
    has_any = slowest > 0
    axes.plot(edges[:-1][has_any] - start_s, slowest[has_any] * _MS, ".", markersize=3)
    for number, live_s in enumerate(timeline.updates_s):
        label = "a version goes live" if not number else None
        axes.axvline(live_s - start_s, color="C3", alpha=0.5, label=label)
    axes.axhline(float(np.median(timeline.took_s)) * _MS, color="C2", label="median")
    axes.set(xlabel="time, s", ylabel="slowest prediction, ms", ylim=(0, None))
    axes.set_title(f"Predictions through updates, {timeline.title}")
    axes.legend(fontsize="small")
