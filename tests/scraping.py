"""A real exporter process, and what Prometheus would read there."""

import http.client
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.command_line import ENVIRON, MODULE, CommandLine
from tests.daemons import Daemon

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class OverUnix(http.client.HTTPConnection):
    """HTTP to a socket in the file system."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(connection: http.client.HTTPConnection, path: str = "/metrics") -> tuple[str, str]:
    """One scrape: the content type, and the text."""
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


def parsed(text: str) -> Series:
    """All series of a text, each once."""
    series: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in series, key
            series[key] = sample.value
    return series


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(sock: socket.socket, *arguments: object) -> subprocess.Popen[str]:
    """An exporter that gets a socket from whoever started it, as from systemd."""
    return subprocess.Popen(
        [sys.executable, "-c", AS_SYSTEMD, str(sock.fileno()), *MODULE, "exporter"]
        + [str(argument) for argument in arguments],
        env=ENVIRON,
        pass_fds=[sock.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class Scraped:
    """What one scrape said."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.series = parsed(text)

    def value(self, name: str, **labels: str) -> float:
        return self.series[name, frozenset(labels.items())]

    def has(self, name: str, **labels: str) -> bool:
        return (name, frozenset(labels.items())) in self.series


class Exporter:
    """A running exporter. path: its socket."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self.path = path
        assert process.stdout is not None
        self.said = process.stdout.readline().strip()

    def scrape(self) -> Scraped:
        return Scraped(ask(OverUnix(self.path))[1])


@contextmanager
def running_exporter(daemon: Daemon, *arguments: object) -> Iterator[Exporter]:
    """An exporter beside a daemon, with the log beside the daemon's."""
    log = daemon.log_path.with_name("exporter-log")
    with CommandLine(daemon.runtime_dir).started("exporter", *arguments, log=log) as process:
        yield Exporter(process, daemon.folder.metrics)
    assert "Traceback" not in log.read_text(), log.read_text()
