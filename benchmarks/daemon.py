"""A daemon for one benchmark: a real process in a folder of its own, gone at the end."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import weightd
from weightd.daemon.main import command
from weightd.daemon.settings import Settings
from weightd.demo.process import Child, wait_for_any
from weightd.errors import BrokenPeerError
from weightd.ipc.runtime import RuntimeFolder

_START_S = 20.0
_STOP_S = 5.0
_ANSWER_S = 120.0


@dataclass(frozen=True)
class Place:
    """A folder for files of this benchmark, and a client of the daemon that runs there."""

    folder: Path
    client: weightd.Client


@contextmanager
def running_daemon() -> Iterator[Place]:
    """A daemon that holds nothing yet, and of each model one version."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="weightd-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        runtime = RuntimeFolder(folder / "run")
        child = Child("daemon", command(runtime, Settings(keep=1)), folder)
        stack.callback(child.stop, timeout_s=_STOP_S)
        client = stack.enter_context(weightd.Client(runtime.path, timeout_s=_ANSWER_S))
        _wait_until_ready(runtime, child)
        yield Place(folder, client)


def _wait_until_ready(runtime: RuntimeFolder, child: Child) -> None:
    deadline = time.monotonic() + _START_S
    while not runtime.control.exists():
        if child.has_ended() or time.monotonic() > deadline:
            raise BrokenPeerError(f"the daemon did not start: {child.tail()}")
        wait_for_any([child], timeout_s=0.02)
