"""Many may pass, or one alone: predictions share the gate, a swap has it to itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A shared and exclusive lock. Those who share never wait for each other, only for one who is
    inside alone, or who waits to be: nobody starves him."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._alone = 0  # inside alone, or waiting for it

    def enter(self) -> None:
        """Pass together with others; leave() ends it. Not while this thread is inside alone."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside and self._alone:
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until all have left and let nobody in until open()."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = 1
            while self._inside:
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
