"""What people and programs get to see: lines, tables, JSON and the bar of a running load.

Names and messages come from files and other processes, so nothing is shown that a terminal could
take for a command. Nothing moves, and nothing is cut to a width, when stdout is no terminal.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import typer

from weightd.errors import WeightdError, to_wire

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from weightd.ipc.protocol import Progress

_NO_TERMINAL_WIDTH = 10_000
_STYLES = {
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "sound": "green",
    "damaged": "bold red",
}


def clean(text: str) -> str:
    """The text on one line, its control characters written out."""
    line = " ".join(part.strip() for part in text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def size(nbytes: int) -> str:
    """Bytes for people."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def print_line(text: str) -> None:
    typer.echo(clean(text))


def print_json(document: Any, *, is_one_line: bool = False) -> None:
    typer.echo(json.dumps(document, indent=None if is_one_line else 2, allow_nan=False))


def print_error(error: WeightdError, *, as_json: bool) -> None:
    code, message = to_wire(error)
    if as_json:
        print_json({"error": {"code": code, "message": message}})
    typer.echo(f"weightd: {clean(message)}", err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table. A column whose name ends in '>' is set flush right."""
    console().print(table_of(columns, rows))


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, is_cut: bool = False
) -> "Table":
    """As print_table() prints it. is_cut: the head has two lines and each row one, and long words
    lose their ends, numbers only when nothing else is left."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def cell(text: str) -> Text:
        style = _STYLES.get(text, "")
        return Text(clean(text), style=style, no_wrap=is_cut, overflow=overflow)

    overflow: Literal["ellipsis", "fold"] = "ellipsis" if is_cut else "fold"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=not is_cut)
    for column in columns:
        is_number = column.endswith(">")
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(cell(column.rstrip(">")), justify=justify, no_wrap=is_cut and is_number)
    for row in rows:
        table.add_row(*map(cell, row))
    return table


@contextmanager
def status_line() -> Iterator[Callable[[str], object]]:
    """A line on stderr that says what is being done now; nothing when nobody watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # No spinner: its thread would run beside what is measured.
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(clean(text)), refresh=True)


@contextmanager
def step_bar(what: str, *, as_json: bool) -> Iterator[Callable[[str, int, int], object]]:
    """A bar over work of this process: call it with the step, how much is done, and all."""
    from weightd.ipc.protocol import Progress

    with progress_bar(what, as_json=as_json) as on_progress:

        def report(step: str, done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(Progress(step, done, total))

        yield report


@contextmanager
def progress_bar(what: str, *, as_json: bool) -> Iterator[Callable[["Progress"], object] | None]:
    """A bar while this lasts, and what to call with each progress; None when nobody watches."""
    if as_json or not sys.stdout.isatty():
        yield None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), TaskProgressColumn())
    with Bar(*columns, console=console(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(progress: "Progress") -> None:
            label = f"{what}: {clean(progress.step)}"
            total = progress.total or None
            bar.update(task, description=label, completed=progress.done, total=total)

        yield show


def console() -> "Console":
    """Where to print what is more than a line."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _NO_TERMINAL_WIDTH
    return Console(width=width, highlight=False)
