"""Many may pass, or one alone: predictions share the gate, a swap has it to itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A shared and exclusive lock. Those who share never wait for each other, only for one who is
    inside alone, or who waits to be: nobody starves him.

    Nobody waits for himself: what a signal handler does in the middle of a prediction, a prediction
    of its own or a fork, passes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._alone = 0  # 1: somebody is inside alone, or waits for it
        self._mine = threading.local()

    def enter(self) -> None:
        """Pass together with others; leave() ends it. Not while this thread is inside alone."""
        mine = self._count()
        with self._changed:
            while self._alone and not mine:
                self._changed.wait()
            self._inside += 1
        self._mine.count = mine + 1

    def leave(self) -> None:
        self._mine.count -= 1
        with self._changed:
            self._inside -= 1
            if self._alone:
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until all others have left and let nobody in until open()."""
        mine = self._count()
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = 1
            while self._inside > mine:
                self._changed.wait()

    def open(self) -> None:
        with self._changed:
            self._alone = 0
            self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self.open()

    def _count(self) -> int:
        """How often this thread is inside."""
        return getattr(self._mine, "count", 0)
