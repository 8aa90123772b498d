"""Wakes a thread that waits in poll(). Rung from anywhere, a finalizer in the garbage collector
included: it takes no lock and never waits."""

import os


class Bell:
    """An eventfd. It closes with its last reference, so a late ring never meets another's fd."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        os.eventfd_write(self._fd, 1)

    def hush(self) -> None:
        """Take back all rings so far."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def __del__(self) -> None:
        os.close(self._fd)
