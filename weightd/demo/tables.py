"""The demo's tables."""

from collections.abc import Iterable

from rich.table import Table

from weightd.demo.report import LenetReport, MemoryReport, Side, WorkerRow

_MIB = 2**20


def worker_table(rows: Iterable[WorkerRow]) -> Table:
    """Where the workers of part 1 stand. pause: of the last switch."""
    table = _table("PID", "version", "accuracy", "requests", "failed", "torn", "pause")
    for row in rows:
        table.add_row(
            str(row.pid),
            f"v{row.version}" if row.version else "-",
            f"{row.accuracy:.1%}",
            f"{row.requests:,}",
            _count(row.failed),
            _count(row.torn),
            f"{row.pause_us:.1f} µs" if row.switches else "-",
        )
    return table


def lenet_table(report: LenetReport) -> Table:
    """What part 1 found: each worker, and all of them. pause: the longest of its switches."""
    title = "LeNet-5 on real digits, its weights replaced three times under load"
    table = _table("PID", "version", "accuracy", "requests", "failed", "torn", "pause", title=title)
    for row in report.workers:
        table.add_row(
            str(row.pid),
            f"v{row.version}",
            " → ".join(f"{row.accuracy_on[version]:.1%}" for version in sorted(row.accuracy_on)),
            f"{row.requests:,}",
            _count(row.failed),
            _count(row.torn),
            f"{row.longest_pause_us:.1f} µs",
        )
    totals = report.totals
    table.add_section()
    table.add_row(
        "all",
        "",
        f"{report.accuracy_before:.1%} → {report.accuracy_after:.1%}",
        f"{totals['requests']:,.0f}",
        _count(int(totals["failed"])),
        _count(int(totals["torn"])),
        f"{totals['longest_pause_us']:.1f} µs",
    )
    return table


def memory_table(report: MemoryReport) -> Table:
    """What part 2 found."""
    count = len(report.private.pss)
    title = f"{count} workers, one model of {report.model_nbytes / _MIB:.0f} MiB"
    table = _table("", "private copies", "weightd", title=title)
    for what, one, other in zip(
        (
            f"memory of all {count} (sum of PSS)",
            "private memory of each (Private_Dirty)",
            "open + first answer, of each",
            "an answer later on, alone",
        ),
        _cells(report.private),
        _cells(report.weightd),
        strict=True,
    ):
        table.add_row(what, one, other)
    table.add_row("load into the daemon, once", "-", f"{report.load_s:.1f} s")
    return table


def _cells(side: Side) -> list[str]:
    return [
        f"{sum(side.pss) / _MIB:,.0f} MiB",
        _range([n / _MIB for n in side.private_dirty], "{:,.0f}", "MiB"),
        _range(side.first_s, "{:.2f}", "s"),
        _range([s * 1000 for s in side.again_s], "{:.0f}", "ms"),
    ]


def _range(values: list[float], pattern: str, unit: str) -> str:
    ends = dict.fromkeys(pattern.format(end) for end in (min(values), max(values)))
    return f"{' to '.join(ends)} {unit}"


def _count(number: int) -> str:
    return f"[bold red]{number}[/]" if number else "0"


def _table(*columns: str, title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table
