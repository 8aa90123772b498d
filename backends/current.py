"""What a session runs on now, exchanged for something newer in one step."""

import threading
import time
from typing import Generic, TypeVar

from weightd.errors import ClosedError

Opened = TypeVar("Opened")


class Current(Generic[Opened]):
    """One opened version. A run takes its own reference with get() and keeps it to its end, so an
    exchange neither waits for runs nor reaches them, and the old one goes with its last run."""

    def __init__(self, opened: Opened) -> None:
        self._opened: Opened | None = opened
        self._exchange = threading.Lock()  # of exchange and close; get() takes none

    def get(self) -> Opened:
        """What to run on; ClosedError after close()."""
        opened = self._opened
        if opened is None:
            raise ClosedError("the session was closed")
        return opened

    def exchange(self, opened: Opened) -> float:
        """Run on this from now on; returns how long that took, in microseconds."""
        started = time.perf_counter_ns()
        with self._exchange:
            previous, self._opened = self.get(), opened
        pause_us = (time.perf_counter_ns() - started) / 1000
        del previous
        return pause_us

    def close(self) -> Opened | None:
        """Let go of it; returns what it was, None after the first time."""
        with self._exchange:
            opened, self._opened = self._opened, None
        return opened
