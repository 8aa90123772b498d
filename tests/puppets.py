"""A real keeper, whose daemons are puppets: they do what the test says."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemons import WORKERS
from tests.helpers import kill_and_reap

PYTHON = [sys.executable, "-I", "-S"]
KEEPER = Path(__file__).parent.parent / "daemon" / "keeper.py"
RUN = """import errno, os, runpy, signal, sys
{}
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Puppet:
    """The daemon that runs now."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("rw")
        hello = json.loads(self._lines.readline())
        self.pid: int = hello["pid"]
        self.held: list[str] = hello["held"]

    def do(self, words: str) -> Any:
        self._lines.write(words + "\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def end(self, status: int) -> None:
        """Have it exit."""
        self._lines.write(f"os._exit({status})\n")
        self._lines.flush()
        self.close()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


class Kept:
    """A keeper, and the daemons that it starts, one after the other."""

    def __init__(self, folder: Path, *, watchdog_s: float = 0.0, **options: Any) -> None:
        self.path = folder / "keeper.sock"
        self._log = folder / "log"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(20)
        self._listener.bind(str(folder / "puppets"))
        self._listener.listen()
        self._puppets: list[Puppet] = []
        puppet = [*PYTHON, str(WORKERS / "puppet.py"), str(folder / "puppets")]
        program = ["-c", RUN.format(options.pop("patch", ""))]
        command = [*PYTHON, *program, str(KEEPER), str(self.path), str(watchdog_s), *puppet]
        prefix = options.pop("prefix", [])
        with self._log.open("wb") as log:
            options.setdefault("stderr", log)
            self.process = subprocess.Popen([*prefix, *command], **options)

    def next(self) -> Puppet:
        """The next daemon that it starts."""
        self._puppets.append(Puppet(self._listener.accept()[0]))
        return self._puppets[-1]

    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        kill_and_reap(self.process)
        for puppet in self._puppets:
            puppet.close()
        self._listener.close()


@contextmanager
def kept_puppet(folder: Path, **options: Any) -> Iterator[Kept]:
    made = Kept(folder, **options)
    try:
        yield made
    finally:
        made.close()
