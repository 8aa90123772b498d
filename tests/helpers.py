"""Waiting, killing, who runs, and what this process holds open: done once, with a deadline."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Return as soon as the condition holds; TimeoutError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise TimeoutError(f"not within {timeout_s} s: {name}")
        time.sleep(0.005)


def open_descriptors() -> dict[int, str]:
    """Each descriptor of this process and what it is, as the kernel writes it."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own, closed by now
            continue
    return found


def children() -> set[int]:
    """The PIDs of this process's children, those that died and were not reaped included."""
    return children_of(os.getpid())


def children_of(pid: int) -> set[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
    return found


def kill_and_reap(process: subprocess.Popen[Any]) -> int:
    """SIGKILL the process unless it has ended, close its pipes, and return its exit status."""
    with process:
        process.kill()
    return process.returncode


def processes_of(mark: str) -> list[str]:
    """The command lines of all processes with `mark` in their arguments or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
            if line and mark.encode() in line + _environ(path):
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _environ(path: Path) -> bytes:
    try:
        return (path / "environ").read_bytes()
    except PermissionError:  # another user's, or one that the kernel hides
        return b""
