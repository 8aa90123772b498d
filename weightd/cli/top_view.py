"""What `weightd top` shows, as tables that fit into a number of lines."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from weightd.cli.screen import clean, size, table_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weightd.cli.top_lines import DaemonLine, Lines, ModelLine, RefusalLine
    from weightd.ipc.status import StagingStatus, WorkerStatus

_MODELS = ("model", "live>", "versions", "memory>", "workers>", "lagging>", "publishes>", "note")
_WORKERS = ("PID>", "model", "version>", "switches>", "last pause>", "lag", "other engine")
_STAGINGS = ("staging", "stager>", "step", "done>")
_REFUSALS = ("refusals", "error", "in all>", "now>")
_HEAD_NLINES = 4  # of a table: an empty line, names, a rule; and perhaps how many more there are
_BAR_WIDTH = 20

Rows = list[tuple[str, ...]]


def view(lines: "Lines", nlines: int | None = None) -> "RenderableType":
    """All of it, in `nlines` lines when given: the daemon first, then tables, cut where they do
    not fit."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(line, no_wrap=True) for line in _daemon(lines.daemon)]
    tables = [
        (_STAGINGS, [_staging(line) for line in lines.staging]),
        (_MODELS, [_model(line) for line in lines.models]),
        (_WORKERS, [_worker(line) for line in lines.workers]),
        (_REFUSALS, [_refusal(line) for line in lines.refusals]),
    ]
    tables = [(columns, rows) for columns, rows in tables if rows]
    shown = [len(rows) for _, rows in tables]
    if nlines is not None:
        shown = fitting(shown, nlines - len(parts))
    for (columns, rows), number in zip(tables, shown, strict=True):
        parts += _table(columns, rows, number, is_cut=nlines is not None)
    return Group(*parts)


def fitting(wanted: Sequence[int], nlines: int) -> list[int]:
    """How many rows of each table to show, in so many lines: as evenly as it goes, and what one
    does not need for the others. A table of none is left out, so the last ones go first."""
    places = nlines
    given = [0] * len(wanted)
    for i in range(len(wanted)):  # its head and one row
        if places > _HEAD_NLINES:
            given[i], places = 1, places - _HEAD_NLINES - 1
    while places > 0:
        hungry = [i for i, number in enumerate(given) if 0 < number < wanted[i]]
        if not hungry:
            break
        for i in hungry[:places]:
            given[i] += 1
        places -= len(hungry[:places])
    return given


def away(reason: str) -> "RenderableType":
    """There is no daemon to show."""
    from rich.text import Text

    return Text(f"daemon away: {clean(reason)}", style="bold red")


def _table(
    columns: tuple[str, ...], rows: Rows, number: int, *, is_cut: bool
) -> "list[RenderableType]":
    from rich.text import Text

    if not number:
        return []
    parts: list[RenderableType] = [Text()] if is_cut else []
    parts.append(table_of(columns, rows[:number], is_cut=is_cut))
    if number < len(rows):
        parts.append(Text(f"and {len(rows) - number} more", style="dim"))
    return parts


def _daemon(line: "DaemonLine") -> tuple[str, ...]:
    budget = "" if line.budget_nbytes is None else f" of {size(line.budget_nbytes)}"
    cpu = "" if line.cpu_percent is None else f", {line.cpu_percent:.1f} % CPU"
    uptime = timedelta(seconds=int(line.uptime_s))
    return (
        f"daemon    pid {line.pid}, weightd {clean(line.version)}, up {uptime}, "
        f"{size(line.resident_nbytes)} resident{cpu}",
        f"memory    {size(line.held_nbytes)}{budget} held once, {size(line.saved_nbytes)} saved",
        f"rates     {_rate(line.attaches_per_s)} attaches, {_rate(line.switches_per_s)} switches",
    )


def _model(line: "ModelLine") -> tuple[str, ...]:
    return (
        line.name,
        str(line.live),
        ", ".join(line.versions),
        size(line.nbytes),
        str(line.workers),
        str(line.lagging),
        _rate(line.publishes_per_s),
        line.note or line.engine or "-",
    )


def _worker(line: "WorkerStatus") -> tuple[str, ...]:
    return (
        str(line.pid),
        line.model,
        str(line.version),
        str(line.switches),
        f"{line.last_pause_us:.1f} µs" if line.switches else "-",
        line.lag or "-",
        f"{line.engine}: {line.note}" if line.note else "-",
    )


def _staging(line: "StagingStatus") -> tuple[str, ...]:
    share = min(1.0, line.done / line.total) if line.total else 0.0
    bar = "━" * round(share * _BAR_WIDTH)
    done = f"{bar:<{_BAR_WIDTH}} {100 * share:3.0f} %" if line.total else "-"
    return line.model, str(line.pid), line.step, done


def _refusal(line: "RefusalLine") -> tuple[str, ...]:
    return line.plane, line.reason, str(line.total), _rate(line.per_s)


def _rate(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:.1f}/s"
