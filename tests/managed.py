"""A daemon under a service manager that the test plays: what it was told, and what it stores."""

import fcntl
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import weightd
from tests.daemons import Daemon
from tests.helpers import wait_until
from weightd.daemon import main
from weightd.daemon.origin import Origin
from weightd.daemon.settings import Settings
from weightd.ipc.runtime import RuntimeFolder

Told = dict[str, str]


class Manager:
    """Reads in a thread. room: how many descriptors fit; keeper: whether it says what does not, as
    a keeper does; systemd is silent. told: all messages but what only beats."""

    def __init__(self, folder: Path, *, room: int = 100, keeper: bool = True) -> None:
        self.path = folder / "notify"
        self.room = room
        self.is_keeper = keeper
        self.told: list[Told] = []
        self.beats = 0
        self.stored: dict[str, int] = {}
        self.is_silent = False  # answers no barrier
        self._refused: list[str] = []
        self._unanswered: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def has_heard(self, **pairs: str) -> bool:
        return any(pairs.items() <= told.items() for told in list(self.told))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.connect(str(self.path)) if self._thread.is_alive() else None
        self._thread.join()
        self._socket.close()
        for fd in (*self.stored.values(), *self._unanswered):
            os.close(fd)

    def _run(self) -> None:
        while True:
            raw, fds, _, _ = socket.recv_fds(self._socket, 8192, 16)
            if not raw:
                return
            said = dict(line.split("=", 1) for line in raw.decode().splitlines())
            if said == {"WATCHDOG": "1"}:
                self.beats += 1
            else:
                self.told.append(said)
            self._heed(said, list(fds))

    def _heed(self, said: Told, fds: list[int]) -> None:
        name = said.get("FDNAME", "")
        if "FDSTORE" in said and len(self.stored) < self.room:
            self.stored[name] = fds.pop()
        elif "FDSTORE" in said:
            self._refused.append(name)
        if "FDSTOREREMOVE" in said and name in self.stored:
            os.close(self.stored.pop(name))
        if "BARRIER" in said and self.is_silent:
            self._unanswered += fds
            return
        if "BARRIER" in said and self._refused and self.is_keeper:
            os.write(fds[0], ", ".join(self._refused).encode())
            self._refused.clear()
        for fd in fds:
            os.close(fd)


class Managed(Daemon):
    """A daemon that was started with what the manager stores."""

    def __init__(
        self,
        origin: Origin | Settings,
        folder: RuntimeFolder,
        log: Path,
        manager: Manager,
        env: Any,
    ) -> None:
        self.folder, self.log_path, self.manager = folder, log, manager
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in manager.stored.values()]
        moves = " ".join(f"{number}<&{fd}" for number, fd in enumerate(high, 3))
        given = {
            "NOTIFY_SOCKET": str(manager.path),
            "FDSTORE": str(manager.room),
            "LISTEN_FDS": str(len(high)),
            "LISTEN_FDNAMES": ":".join(manager.stored),
            "WATCHDOG_USEC": "300000",
            **({"WEIGHTD_STORE": "weightd-keeper"} if manager.is_keeper else {}),
        }
        command = ["bash", "-c", f'LISTEN_PID=$$ exec "$@" {moves}', "bash"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *main.command(folder, origin)],
                stderr=file,
                pass_fds=high,
                env={**os.environ, **given, **env},
            )
        for fd in high:
            os.close(fd)
        wait_until(lambda: self.process.poll() is not None or "ready at" in self.log())
        self.client = weightd.Client(folder.path, timeout_s=20)


class Place:
    """Where daemons live one after the other, under one manager."""

    def __init__(self, path: Path, manager: Manager) -> None:
        self.path, self.manager = path, manager

    @contextmanager
    def daemon(
        self, origin: Origin | None = None, env: Any = None, **settings: Any
    ) -> Iterator[Managed]:
        what = origin or Settings(**settings)
        made = Managed(
            what, RuntimeFolder(self.path / "run"), self.path / "log", self.manager, env or {}
        )
        try:
            yield made
        finally:
            made.close()
        assert "Traceback" not in made.log(), made.log()


@contextmanager
def managed_place(**options: Any) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="wd-") as path:
        manager = Manager(Path(path), **options)
        try:
            yield Place(Path(path), manager)
        finally:
            manager.close()
