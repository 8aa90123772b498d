"""Takes the pages of a memory in order, ahead of whoever fills it.

The kernel clears each page before it gives it, which costs more than to read a file into it and to
hash it together. So a thread takes them while the filler fills, and the filler, when it comes to
pages that nobody has begun with, takes some itself: both cores work until the end.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Self

from weightd.errors import WeightdError

_STEP_NBYTES = 2 * 1024 * 1024  # a huge page
_AHEAD_NBYTES = 64 * 1024 * 1024  # at most; what is not needed in the end is given back


class Pages:
    """The pages of `nbytes` bytes. take(offset, nbytes) takes some, in both threads. Owns the
    helper thread, until close()."""

    def __init__(self, take: Callable[[int, int], object], nbytes: int) -> None:
        self._take = take
        self._nbytes = nbytes
        self._changed = threading.Condition()
        self._begun = 0  # everything before it is taken, or being taken
        self._underway: set[int] = set()  # the offsets of what is being taken
        self._limit = 0  # how far the helper may go
        self._failed: set[int] = set()  # the offsets of what could not be taken
        self._is_closed = False
        self._helper: threading.Thread | None = None

    def need(self, end: int) -> None:
        """Return once all pages before `end` are there. Raises what take() raises for them."""
        ahead = min(end, _AHEAD_NBYTES)  # who needed little so far may need no more
        with self._changed:
            self._limit = min(self._nbytes, max(self._limit, end + ahead))
            self._changed.notify_all()
        self._start_helper()
        while self._take_next(end):
            pass
        with self._changed:
            self._changed.wait_for(lambda: not any(offset < end for offset in self._underway))
            failed = sorted(offset for offset in self._failed if offset < end)
        for offset in failed:
            self._take(offset, self._step_at(offset))
            with self._changed:
                self._failed.discard(offset)

    def close(self) -> None:
        """Wait for what is underway; take no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._helper is not None:
            self._helper.join()
            self._helper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _step_at(self, offset: int) -> int:
        return min(_STEP_NBYTES, self._nbytes - offset)

    def _start_helper(self) -> None:
        if self._helper is None and self._limit - self._begun > _STEP_NBYTES:
            self._helper = threading.Thread(target=self._help, name="pages", daemon=True)
            self._helper.start()

    def _help(self) -> None:
        """Take pages until the limit, and on when it moves. A failure ends it and says nothing:
        what failed is tried again, and told, when it is needed."""
        with contextlib.suppress(WeightdError, OSError):
            while self._wait_for_work():
                self._take_next(self._limit)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._begun < self._limit)
            return not self._is_closed

    def _take_next(self, end: int) -> bool:
        """Take the next step's pages; False when somebody has begun with all before `end`."""
        with self._changed:
            offset = self._begun
            if offset >= end:
                return False
            nbytes = self._step_at(offset)
            self._begun += nbytes
            self._underway.add(offset)
        is_taken = False
        try:
            self._take(offset, nbytes)
            is_taken = True
        finally:
            with self._changed:
                self._underway.discard(offset)
                if not is_taken:
                    self._failed.add(offset)
                self._changed.notify_all()
        return True
