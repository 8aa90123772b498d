"""The real command line as a process: run it, or start it and watch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weightd
from tests.helpers import kill_and_reap

MODULE = [sys.executable, "-m", "weightd.cli"]
ENVIRON = {
    **os.environ,
    "PYTHONPATH": str(Path(weightd.__file__).parent.parent),
    "PYTHONWARNINGS": "error",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        assert self.err == ""
        return json.loads(self.out)

    def complaint(self) -> str:
        """The one line on stderr of a refused command."""
        assert self.status == 2, (self.out, self.err)
        [line] = self.err.splitlines()
        assert line.startswith("weightd: ")
        return line.removeprefix("weightd: ")


@dataclass(frozen=True)
class CommandLine:
    """`weightd … --runtime-dir FOLDER`. program: how it is started, by another user perhaps."""

    runtime_dir: Path
    program: tuple[str, ...] = tuple(MODULE)

    def argv(self, *arguments: object) -> list[str]:
        words = map(str, arguments)
        return [*self.program, *words, "--runtime-dir", str(self.runtime_dir)]

    def run(self, *arguments: object) -> Done:
        done = subprocess.run(
            self.argv(*arguments),
            env=ENVIRON,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(self, *arguments: object, log: Path) -> Iterator[subprocess.Popen[str]]:
        """Running in the background, its stdout a pipe, its stderr in `log`."""
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                self.argv(*arguments), env=ENVIRON, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        try:
            yield process
        finally:
            kill_and_reap(process)
