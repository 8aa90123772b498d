"""`weightd exporter`: the helper process that Prometheus scrapes."""

import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.options import RuntimeDir
from weightd.cli.screen import print_line
from weightd.errors import SettingsError

if TYPE_CHECKING:
    import socket


_Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        readable=False,
        help="Where to listen. Without it and without --port: metrics.sock in the daemon's folder.",
    ),
]


def exporter(
    *,
    runtime_dir: RuntimeDir = None,
    path: _Socket = None,
    mode: Annotated[
        str, typer.Option("--socket-mode", metavar="OCTAL", help="Who may connect to it.")
    ] = "0660",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Also, or only, listen on this port of 127.0.0.1."),
    ] = None,
    exit_idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="End when nobody scraped for so long; systemd starts it again.",
        ),
    ] = None,
) -> None:
    """Serve the daemon's metrics to Prometheus, until SIGTERM or Ctrl-C.

    It asks the daemon at each scrape, so it must be let in by the control socket. A daemon that
    does not answer is `weightd_up 0`. Sockets that systemd hands over (LISTEN_FDS) are used
    in the place of --socket and --port.

    \b
    Examples:
      weightd exporter
      weightd exporter --port 9469
      curl --unix-socket /run/weightd/metrics.sock http://localhost/metrics
    """
    from weightd.exporter.collector import DaemonCollector
    from weightd.exporter.server import Exporter
    from weightd.exporter.sockets import inherited, name_of
    from weightd.ipc.runtime import RuntimeFolder

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    folder = RuntimeFolder.find(runtime_dir, os.environ)
    sockets, own_path = inherited(os.environ), None
    if not sockets:
        own_path = path or (None if port is not None else folder.metrics)
        sockets = _own_sockets(own_path, _octal(mode), port)
    signal.signal(signal.SIGTERM, _end)
    collector = DaemonCollector(folder.path)
    with (
        contextlib.closing(collector),
        Exporter(sockets, collector.registry(), own_path) as serving,
    ):
        for sock in sockets:
            print_line(f"serving metrics at {name_of(sock)}")
        serving.serve(exit_idle)


def _own_sockets(path: Path | None, mode: int, port: int | None) -> "list[socket.socket]":
    from weightd.exporter import sockets

    with contextlib.ExitStack() as on_error:
        found = []
        if path is not None:
            found.append(on_error.enter_context(sockets.on_path(path, mode)))
        if port is not None:
            found.append(on_error.enter_context(sockets.on_loopback(port)))
        on_error.pop_all()
    return found


def _octal(text: str) -> int:
    with contextlib.suppress(ValueError):
        mode = int(text, 8)
        if 0 <= mode <= 0o777:
            return mode
    raise SettingsError(f"--socket-mode {text!r} is no file mode, such as 0660")


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)
