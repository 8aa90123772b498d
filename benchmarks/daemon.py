"""A daemon for one benchmark: a real process in a folder of its own, gone at the end."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import weightd
from weightd.daemon import main
from weightd.daemon.settings import Settings
from weightd.errors import NoDaemonError
from weightd.ipc.runtime import RuntimeFolder

_READY_S = 20.0
_ANSWER_S = 60.0


@contextmanager
def running_daemon(*, keep: int = 1) -> Iterator[weightd.Client]:
    """A client of a daemon that holds nothing yet. keep: versions held, the live one included."""
    with tempfile.TemporaryDirectory(prefix="weightd-bench-") as path:
        folder = RuntimeFolder(Path(path) / "run")
        with (Path(path) / "log").open("wb") as log:
            process = subprocess.Popen(
                main.command(folder, Settings(keep=keep)), stdout=log, stderr=log
            )
        with process, weightd.Client(folder.path, timeout_s=_ANSWER_S) as client:
            try:
                _wait_until_ready(client, process)
                yield client
            finally:
                process.terminate()


def _wait_until_ready(client: weightd.Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            client.current_pid()
        except NoDaemonError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
