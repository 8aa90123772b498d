"""Signals that end the demo, as an exception raised at most once and never while something is made
or cleaned up.

    with ExitStack() as stack:          # its cleaning up is not interrupted
        with signals.raised():          # Interrupted may come out of any line here …
            with signals.held():        # … except here: made and registered, or neither
                stack.callback(make().close)

Nor while a module is imported: Python loses what is raised while it compiles one.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.01


class Interrupted(BaseException):
    """The demo was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Owns the handlers of the ending signals while it lasts."""

    def __init__(self) -> None:
        self._may_raise = False
        self._pending = 0

    def __enter__(self) -> Self:
        self._before = {n: signal.signal(n, self._handle) for n in ENDING}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._again)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """A signal raises Interrupted in here."""
        try:
            self._allow()
            yield
        finally:
            self._may_raise = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal waits until the end of this."""
        before, self._may_raise = self._may_raise, False
        try:
            yield
        finally:
            if before:
                self._allow()

    def _allow(self) -> None:
        self._may_raise = True
        if self._pending:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pending = self._pending or number
        self._again(number, frame)

    def _again(self, _number: int, frame: FrameType | None) -> None:
        """Raise what is pending, or try again soon."""
        if not (self._pending and self._may_raise):
            return
        if _is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            self._raise()

    def _raise(self) -> None:
        self._may_raise = False
        number, self._pending = self._pending, 0
        raise Interrupted(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
