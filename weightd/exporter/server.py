"""HTTP for scrapers: few at once and none for long, so that slow ones cost neither the daemon nor
each other much.

One connection is one answer. While all places of a socket are taken nobody is accepted there: the
others wait in the kernel's queue until one is free, which is after five seconds at the latest.
"""

import contextlib
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Iterable
from http.server import HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Self

from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

log = logging.getLogger("weightd.exporter")

AT_ONCE = 8  # on each socket
DEADLINE_S = 5.0  # from accepting to the end
_SWEEP_S = 0.25


class _Handler(MetricsHandler):
    """Whatever the path, the answer is the metrics."""

    timeout = DEADLINE_S  # for each read and write; _Listening sees to the whole


class _Listening(ThreadingMixIn, HTTPServer):
    """One listening socket, which it owns; a thread for each connection."""

    address_family = socket.AF_UNIX  # of the one that HTTPServer makes, and we replace
    daemon_threads = True
    timeout = 0  # handle_request() takes what is there

    def __init__(self, sock: socket.socket, registry: CollectorRegistry) -> None:
        super().__init__(("", 0), _Handler.factory(registry), bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        sock.setblocking(False)  # who hangs up before it is accepted must not stop us
        self._until_s: dict[socket.socket, float] = {}  # whom it answers, and until when

    @property
    def is_full(self) -> bool:
        return len(self._until_s) >= AT_ONCE

    @property
    def is_busy(self) -> bool:
        return bool(self._until_s)

    def end_overdue(self) -> None:
        """Hang up on those who took too long: their threads then end."""
        now_s = time.monotonic()
        for sock, until_s in list(self._until_s.items()):
            if until_s < now_s:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    sock.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._until_s[request] = time.monotonic() + DEADLINE_S
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._until_s.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # else it hung up, or took too long
            log.exception("a scrape failed")


class Exporter:
    """Serves the metrics of a registry on listening sockets. Owns these, and the name that one of
    them has in the file system when it is given as `path`."""

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        registry: CollectorRegistry,
        path: Path | None = None,
    ) -> None:
        self._servers = [_Listening(sock, registry) for sock in sockets]
        self._path = path

    def serve(self, exit_idle_s: float | None = None) -> None:
        """Answer scrapes; returns when there was none for `exit_idle_s`, without it never."""
        while self._turn(exit_idle_s):
            for server in self._servers:
                server.end_overdue()

    def _turn(self, idle_s: float | None) -> bool:
        """Let in who waits, as far as there are places. False when nobody came, and nobody is
        there."""
        is_busy = any(server.is_busy for server in self._servers)
        free = [server for server in self._servers if not server.is_full]
        ready, _, _ = select.select(free, [], [], _SWEEP_S if is_busy else idle_s)
        for server in ready:
            server.handle_request()
        return is_busy or bool(ready)

    def close(self) -> None:
        for server in self._servers:
            server.server_close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
