"""One thread that waits for descriptors, timers and calls from other threads. Decides nothing."""

import heapq
import itertools
import select
import time
from collections import deque
from collections.abc import Callable

from weightd.ipc.bell import Bell

Callback = Callable[[], object]


class Timer:
    """A call that is due later. Cancelled, it holds on to nothing."""

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback()


class Loop:
    """Owns its epoll and the bell that wakes it. Everything runs in the thread of run()."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}  # by descriptor
        self._bell: Bell | None = Bell()
        self.add(self._bell.fileno(), self._bell.hush)
        self._soon: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._before_sleep: list[Callable[[], bool]] = []
        self._stopping = False

    def add(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is readable or hung up."""
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def before_sleep(self, has_work: Callable[[], bool]) -> None:
        """Call `has_work` before each wait; while it says True the loop does not wait. For
        descriptors that are edge-triggered."""
        self._before_sleep.append(has_work)

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call `callback` once, after a while, unless the timer is cancelled before."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    @staticmethod
    def now_s() -> float:
        """The clock that timers go by. It never goes back."""
        return time.monotonic()

    def call_soon(self, callback: Callback) -> None:
        """Call `callback` in the loop's thread. The one method that any thread may use, and
        signal handlers too. Of a loop that was closed nothing is called any more."""
        bell = self._bell
        self._soon.append(callback)
        if bell is not None:  # which stays until it has rung, though this very call end the loop
            bell.ring()

    def call_next(self, callback: Callback) -> None:
        """Call `callback` once the descriptors of this turn have been served. For what runs in the
        loop's thread, which needs no waking."""
        self._soon.append(callback)

    def run(self) -> None:
        """Turn until stop()."""
        while not self._stopping:
            work = [check() for check in self._before_sleep]  # all of them, each time
            has_work = any(work)
            timeout_s = 0 if has_work else self._timeout_s()
            ready = [(fd, self._callbacks[fd]) for fd, _ in self._epoll.poll(timeout_s)]
            for fd, callback in ready:
                if self._callbacks.get(fd) is callback:  # not removed by one before it
                    callback()
            self._run_due()

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._callbacks.clear()
        self._epoll.close()
        self._bell = None

    def _timeout_s(self) -> float | None:
        if self._soon:
            return 0
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_due(self) -> None:
        for _ in range(len(self._soon)):  # those that come meanwhile wait for the next turn
            self._soon.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2].fire()
