"""The processes that matter to the daemon: whitelisted ones and lease holders, by their pidfds."""

import time
from collections.abc import Callable

from weightd.daemon.loop import Loop
from weightd.errors import NotAllowedError
from weightd.ipc.peer import Key, Process

_REMEMBERED = 65_536
_REMEMBERED_S = 60.0


class ProcessTable:
    """Owns one pidfd per process and calls `when_ended` once when that process is gone.

    It also remembers for a minute who was told which number, so that a number whitelisted a moment
    too late, when its process has ended and another one has it, is refused, also when the other
    one has asked for its number, too.
    """

    def __init__(self, loop: Loop, when_ended: Callable[[Key], object]) -> None:
        self._loop = loop
        self._when_ended = when_ended
        self._watched: dict[Key, Process] = {}
        self._asked: dict[int, dict[Key, float]] = {}  # by PID: who was told it, and when

    def remember(self, process: Process) -> None:
        """This process was told its PID."""
        now_s = time.monotonic()
        told = self._asked.pop(process.pid, {})
        recent = {key: since_s for key, since_s in told.items() if now_s - since_s < _REMEMBERED_S}
        self._asked[process.pid] = recent | {process.key: now_s}  # last in the order of the dict
        if len(self._asked) > _REMEMBERED:
            del self._asked[next(iter(self._asked))]

    def open(self, pid: int) -> Process:
        """The living process with this PID; NotAllowedError when there is none, or when another
        one was told this number in the last minute."""
        process = Process.of_pid(pid)
        now_s = time.monotonic()
        others = [
            key
            for key, since_s in self._asked.get(pid, {}).items()
            if key != process.key and now_s - since_s < _REMEMBERED_S
        ]
        if not process.is_alive() or others:
            process.close()
            raise NotAllowedError(
                f"the process that was told that its PID is {pid} has ended; start the worker "
                "again and allow the number that it then learns (weightd.current_pid())"
            )
        return process

    def watch(self, process: Process) -> None:
        """Take over `process` until it ends or is dropped."""
        if process.key in self._watched:
            process.close()
            return
        self._watched[process.key] = process
        self._loop.add(process.pidfd, lambda: self._ended(process))

    def is_watched(self, key: Key) -> bool:
        return key in self._watched

    def get(self, key: Key) -> Process | None:
        return self._watched.get(key)

    def keep_only(self, keys: set[Key]) -> None:
        """Drop every process that is neither whitelisted nor holds a lease."""
        for key in self._watched.keys() - keys:
            self._drop(self._watched[key])

    def close(self) -> None:
        self.keep_only(set())

    def _ended(self, process: Process) -> None:
        self._drop(process)
        self._when_ended(process.key)

    def _drop(self, process: Process) -> None:
        del self._watched[process.key]
        self._loop.remove(process.pidfd)
        process.close()
