"""What the demo stands on: a temp folder, a daemon in it, a client; and the way to start children.

All of it is registered to be cleaned up in the moment in which it is made.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import weightd
from weightd.daemon.main import command
from weightd.daemon.settings import Settings
from weightd.demo.interruption import Signals
from weightd.demo.process import Child, DemoError, wait_for_any
from weightd.demo.screen import Screen
from weightd.ipc.runtime import RuntimeFolder

_START_S = 20.0
_STOP_S = 1.0
_ASK_S = 30.0


class Stage:
    """Made on an ExitStack that cleans up after it."""

    def __init__(self, stack: ExitStack, signals: Signals, screen: Screen) -> None:
        self._stack = stack
        self._signals = signals
        self.screen = screen
        with signals.held():
            self.folder = Path(tempfile.mkdtemp(prefix="weightd-demo-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._runtime = RuntimeFolder(self.folder / "run")
        argv = command(self._runtime, Settings(stage_deadline_s=120))
        with signals.held():
            self.daemon = Child("daemon", argv, self.folder)
            stack.callback(self.daemon.stop, timeout_s=_STOP_S)
        stack.push(self._show_why)
        self.client = stack.enter_context(weightd.Client(self._runtime.path, timeout_s=_ASK_S))
        self._wait_until_ready()

    @property
    def runtime_dir(self) -> Path:
        return self._runtime.path

    def start(self, name: str, module: str, *arguments: object) -> Child:
        """Start `python -m weightd.demo.<module>`; it is gone when the demo ends, or earlier."""
        argv = [sys.executable, "-P", "-m", f"weightd.demo.{module}", *map(str, arguments)]
        with self._signals.held():
            child = Child(name, argv, self.folder)
            self._stack.callback(child.close)
        return child

    def at_end(self, close: Callable[[], object]) -> None:
        self._stack.callback(close)

    def _wait_until_ready(self) -> None:
        """Each socket is there and the daemon answers, or it has ended and its log says why."""
        deadline = time.monotonic() + _START_S
        while not self._runtime.control.exists():
            if self.daemon.has_ended() or time.monotonic() > deadline:
                raise DemoError("the daemon did not start")
            wait_for_any([self.daemon], timeout_s=0.02)
        self.client.status()

    def _show_why(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _tb: TracebackType | None,
    ) -> None:
        """When a step failed, the daemon's side of it."""
        if isinstance(error, Exception) and not isinstance(error, BrokenPipeError):
            self.screen.complain(self.daemon.tail())
