"""`weightd top`: a live screen of one daemon."""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.options import AsJson, RuntimeDir, connect
from weightd.cli.screen import console, print_json
from weightd.errors import WeightdError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from weightd.client import Client
    from weightd.readings import Reading

_TIMEOUT_S = 2.0


def top(
    *,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How often to look.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Watch the daemon: memory, models, workers, stagings, refusals. q or Ctrl-C ends it.

    It goes on while the daemon is away. When the output is no terminal, and with --json, it
    is printed once, without rates: these need two looks.

    \b
    Examples:
      weightd top
      weightd top --interval 0.5
      weightd top --json | jq .daemon.saved_nbytes
    """
    if as_json or once or not sys.stdout.isatty():
        _print_once(runtime_dir, as_json=as_json)
        return
    with contextlib.closing(_Watch(runtime_dir)) as watch, _keys() as pressed, _screen() as live:
        while True:
            live.update(watch.look(live.console.height), refresh=True)
            if pressed(interval) in {"q", "Q"}:
                break


def _print_once(runtime_dir: Path | None, *, as_json: bool) -> None:
    import msgspec

    from weightd.cli.top_lines import lines
    from weightd.cli.top_view import view
    from weightd.readings import take

    with connect(runtime_dir) as client:
        shown = lines(take(client), None)
    if as_json:
        print_json(msgspec.to_builtins(shown))
    else:
        console().print(view(shown))


class _Watch:
    """Looks at a daemon again and again. Owns its client, which is made anew when the daemon was
    away."""

    def __init__(self, runtime_dir: Path | None) -> None:
        self._runtime_dir = runtime_dir
        self._client: Client | None = None
        self._before: Reading | None = None

    def look(self, nlines: int) -> "RenderableType":
        from weightd.cli.top_lines import lines
        from weightd.cli.top_view import away, view
        from weightd.readings import take

        try:
            if self._client is None:
                self._client = connect(self._runtime_dir, timeout_s=_TIMEOUT_S)
            now = take(self._client)
        except WeightdError as error:
            self.close()
            return away(str(error))
        shown = lines(now, self._before)
        self._before = now
        return view(shown, nlines)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _screen() -> "Live":
    from rich.live import Live

    return Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop")


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Waits so many seconds for a key, and returns it, '' for none. Keys come at once, unseen,
    while this lasts."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _key(timeout_s: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
    if not ready:
        return ""
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") or "q"  # the terminal is gone


def _no_key(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""
