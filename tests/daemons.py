"""A real daemon in a folder of its own, and real workers that attach to it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import weightd
from tests.helpers import children_of, kill_and_reap, wait_until
from weightd.daemon import main
from weightd.daemon.origin import Origin
from weightd.daemon.settings import Settings
from weightd.ipc.runtime import RuntimeFolder

DATA = Path(weightd.__file__).parent / "data"
LENET = DATA / "lenet5.onnx"
EARLY = DATA / "lenet5_early.safetensors"
FINAL = DATA / "lenet5.safetensors"
WORKERS = Path(__file__).parent / "workers"


class Daemon:
    """A running daemon: its process, its folder, a client, and what it logged."""

    def __init__(
        self,
        settings: Settings,
        folder: RuntimeFolder,
        log: Path,
        *,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.log_path = log
        command = [*prefix, *main.command(folder, settings)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file)
        wait_until(lambda: self.process.poll() is not None or "ready at" in self.log())
        self.client = weightd.Client(folder.path, timeout_s=20)

    @property
    def runtime_dir(self) -> Path:
        return self.folder.path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text()

    def load_lenet(self, name: str = "lenet", **options: Any) -> int:
        return self.client.load(name, LENET, **options)

    def attach_here(self, name: str = "lenet", **options: Any) -> weightd.Attachment:
        """Attach the test's own process."""
        self.client.allow(name, os.getpid())
        return weightd.attach(name, runtime_dir=self.runtime_dir, **options)

    def versions(self, name: str = "lenet") -> list[tuple[int, str]]:
        """Each version that is held, and its state."""
        return [(v.number, v.state) for v in self.client.status().models[name].versions]

    def leases(self, name: str = "lenet") -> dict[int, int]:
        """Of each version that is held, how many leases it has."""
        return {v.number: v.leases for v in self.client.status().models[name].versions}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def close(self) -> None:
        self.client.close()
        kill_and_reap(self.process)


@contextmanager
def running_daemon(*, prefix: tuple[str, ...] = (), **settings: Any) -> Iterator[Daemon]:
    """A daemon with these settings, gone with its folder at the end. prefix: a command to start
    it by."""
    with tempfile.TemporaryDirectory(prefix="wd-") as path:
        folder = RuntimeFolder(Path(path) / "run")
        daemon = Daemon(Settings(**settings), folder, Path(path) / "log", prefix=prefix)
        try:
            yield daemon
        finally:
            daemon.close()
        assert "Traceback" not in daemon.log(), daemon.log()


class Kept(Daemon):
    """A daemon that a keeper starts, again and again: `process` is the keeper. program: instead of
    the daemon's own module."""

    def __init__(
        self,
        settings: Settings | Origin,
        folder: RuntimeFolder,
        log: Path,
        *,
        program: tuple[str, ...] = (),
    ) -> None:
        folder.create(settings.folder_mode if isinstance(settings, Settings) else 0o700)
        self.folder = folder
        self.log_path = log
        self._known = 0  # the daemon that await_next() goes on from
        command = main.kept_command(folder, settings)
        if program:
            command[command.index("-P", 2) : -2] = program
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file)
        wait_until(lambda: self.process.poll() is not None or "ready at" in self.log())
        self.client = weightd.Client(folder.path, timeout_s=20)

    @property
    def pid(self) -> int:
        """Of the daemon that lives now; 0 between two."""
        return next(iter(children_of(self.process.pid)), 0)

    def kill(self) -> None:
        """SIGKILL, and wait until another one serves."""
        before = self.pid
        os.kill(before, signal.SIGKILL)
        self.wait_for_another_than(before)

    def wait_for_another_than(self, before: int) -> None:
        wait_until(lambda: self.client.status().pid != before)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            kill_and_reap(self.process)


@contextmanager
def kept_daemon(
    *, program: tuple[str, ...] = (), origin: Origin | None = None, **settings: Any
) -> Iterator[Kept]:
    """As running_daemon(), under a keeper."""
    with tempfile.TemporaryDirectory(prefix="wd-") as path:
        folder = RuntimeFolder(Path(path) / "run")
        what = origin or Settings(**settings)
        daemon = Kept(what, folder, Path(path) / "log", program=program)
        try:
            yield daemon
        finally:
            daemon.close()
        assert "Traceback" not in daemon.log(), daemon.log()


class Worker:
    """A process that runs tests/workers/<script> and takes one JSON command a line.

    prefix: a command to start it by (unshare, setpriv). ask() sends a command and returns the
    answer; an answer {"error": [code, text]} is returned as it is.
    """

    def __init__(
        self, runtime_dir: Path, *, script: str = "worker.py", prefix: tuple[str, ...] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(WORKERS / script), str(runtime_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(weightd.__file__).parent.parent)},
        )

    @property
    def pid(self) -> int:
        """The PID that the test sees, of `prefix` when there is one."""
        return self.process.pid

    def send(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"worker {self.pid} ended with status {self.process.wait(10)}")
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.answer()

    def close(self) -> None:
        kill_and_reap(self.process)


@contextmanager
def running_worker(daemon: Daemon, **options: Any) -> Iterator[Worker]:
    worker = Worker(daemon.runtime_dir, **options)
    try:
        yield worker
    finally:
        worker.close()
