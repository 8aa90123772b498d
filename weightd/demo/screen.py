"""What people see of the demo: lines, and on a terminal a table that lives."""

import json
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

_REDRAW_S = 0.1


class Screen:
    """Standard output, or with as_json standard error. close() puts the terminal right again."""

    def __init__(self, *, as_json: bool) -> None:
        self._console = Console(stderr=as_json, highlight=False)
        self._errors = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._drawn_s = 0.0

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def print(self, table: Table) -> None:
        self._console.print(table)

    def complain(self, text: str) -> None:
        self.close()
        self._errors.print(text, soft_wrap=True, markup=False)

    def show(self, table: Table) -> None:
        """Draw the living table again; nothing where there is no terminal."""
        if not self.is_terminal or time.monotonic() < self._drawn_s + _REDRAW_S:
            return
        self._drawn_s = time.monotonic()
        if self._live is None:
            self._live = Live(table, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(table, refresh=True)

    def close(self) -> None:
        """Leave the living table as it is."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    @staticmethod
    def document(value: Any) -> None:
        """The one thing on standard output with as_json."""
        Console(highlight=False, soft_wrap=True).print(
            json.dumps(value, indent=2), markup=False, emoji=False
        )
