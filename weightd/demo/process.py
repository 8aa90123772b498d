"""A child process of the demo: it is sent JSON lines, sends JSON lines, and dies with the demo."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import weightd

_TAIL_LINES = 15


class DemoError(Exception):
    """A step of the demo failed; the message is for people."""


class Child:
    """One child, in a session of its own: the terminal's Ctrl-C does not reach it.

    Standard error goes to a log in `folder`, which is also where it makes temporary files.
    """

    def __init__(self, name: str, argv: list[str], folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._lines: list[bytes] = []
        self._rest = b""
        launcher = [sys.executable, "-P", "-m", "weightd.demo.child", str(os.getpid())]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*launcher, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": _python_path(), "TMPDIR": str(folder)},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        number: int = _pipe(self._process.stdout).fileno()
        return number

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            os.write(_pipe(self._process.stdin).fileno(), line)
        except BrokenPipeError as error:
            raise self._ended() from error

    def receive(self, *, timeout_s: float) -> dict[str, Any]:
        """Its next message; DemoError when it ends, or says nothing for so long."""
        deadline = time.monotonic() + timeout_s
        while not self._lines:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DemoError(f"{self.name} said nothing for {timeout_s:.0f} s\n{self.tail()}")
            if wait_for_any([self], timeout_s=left_s):
                self._read()
        message: dict[str, Any] = json.loads(self._lines.pop(0))
        return message

    def received(self) -> list[dict[str, Any]]:
        """All that it has sent by now."""
        while wait_for_any([self], timeout_s=0):
            self._read()
        lines, self._lines = self._lines, []
        return [json.loads(line) for line in lines]

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"--- end of the log of {self.name} ---", *lines])

    def stop(self, *, timeout_s: float) -> None:
        """SIGTERM; SIGKILL when that does not end it in time."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.close()

    def kill(self) -> None:
        """SIGKILL, unless it has ended; close() reaps it. From any thread."""
        self._process.kill()

    def close(self) -> None:
        """SIGKILL, unless it has ended, and reap it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()

    def _read(self) -> None:
        chunk = os.read(self.fileno(), 65536)
        if not chunk:
            raise self._ended()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._lines += lines

    def _ended(self) -> DemoError:
        self._process.kill()
        status = self._process.wait()
        return DemoError(f"{self.name} ended with status {status}\n{self.tail()}")


def wait_for_any(children: Iterable[Child], *, timeout_s: float) -> list[Child]:
    """The children that have something to read, or have ended."""
    ready, _, _ = select.select(list(children), [], [], timeout_s)
    return ready


def _pipe(pipe: Any) -> Any:
    assert pipe is not None  # as Popen was told
    return pipe


def _python_path() -> str:
    """Where this weightd was imported from, first."""
    here = str(Path(weightd.__file__).parent.parent)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
