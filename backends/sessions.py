"""Several sessions over one version: as many runs at once, each with a session and cores to itself.

Who comes first is served first. A run goes on in the thread that asks for it, so nothing is handed
from thread to thread, and no lock is held while the engine works.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from weightd.backends.base import Session, named
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.errors import ClosedError, PoisonedError, WeightdError
from weightd.weights.arrays import Array


def session_on(
    version: MappedVersion, current: Session | None, threads: Sequence[Threads]
) -> Session | None:
    """A session on this version: the current one, switched, if it is of the same engine. None for
    weights without a graph."""
    manifest = version.manifest
    if manifest.layout != "compiled":
        return None
    if current is not None and current.compiled_by == manifest.stamp["engine"]:
        current.swap(version)
        return current
    return open_sessions(version, threads)


def open_sessions(version: MappedVersion, threads: Sequence[Threads]) -> Session:
    """A session on the version's own engine for each entry of `threads`; as one."""
    backend = named(version.manifest.stamp["engine"])
    if len(threads) == 1 and not threads[0].cores and not threads[0].takes_turns:
        return backend.open(version, threads=threads[0])
    opened: list[Session] = []
    try:
        opened.extend(backend.open(version, threads=each) for each in threads)
    except BaseException:
        for session in opened:
            session.close()
        raise
    return Sessions(opened, threads, version)


class Sessions:
    """Owns its sessions. A run waits while all of them are taken."""

    def __init__(
        self, sessions: Sequence[Session], threads: Sequence[Threads], version: MappedVersion
    ) -> None:
        self._sessions = tuple(sessions)
        self._version = version
        self._poison = ""
        self._line: _Line = _Line(range(len(sessions)))
        self._threads = tuple(threads)
        self.compiled_by = sessions[0].compiled_by

    @property
    def engine(self) -> str:
        return self._telling.engine

    @property
    def note(self) -> str:
        return self._telling.note

    @property
    def _telling(self) -> Session:
        """One that has something to say, if there is one."""
        return next((each for each in self._sessions if each.note), self._sessions[0])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        number = self._line.take()
        try:
            if self._poison:
                raise PoisonedError(self._poison)
            with self._threads[number].bound():
                return self._sessions[number].run(inputs)
        finally:
            self._line.give(number)

    def swap(self, version: MappedVersion) -> float:
        """One after the other, while the others run. When one fails, those before it go back."""
        pause_us = 0.0
        switched: list[Session] = []
        try:
            for session in self._sessions:
                pause_us = max(pause_us, session.swap(version))
                switched.append(session)
        except BaseException:
            self._go_back(switched)
            raise
        self._version = version
        self._poison = ""
        return pause_us

    def _go_back(self, switched: Sequence[Session]) -> None:
        for session in switched:
            try:
                session.swap(self._version)
            except (WeightdError, OSError, MemoryError) as error:
                self._poison = f"a switch of some sessions failed, and so did the way back: {error}"

    def inherited(self) -> None:
        """None: a child opens as many of its own."""

    def close(self) -> None:
        self._line.close()
        for session in self._sessions:
            session.close()


class _Turn:
    """Somebody who waits for a number."""

    def __init__(self) -> None:
        self.has_come = threading.Lock()
        self.has_come.acquire()
        self.number: int | None = None


class _Line:
    """Numbers that are free, and who waits for one, first come first served."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._lock = threading.Lock()
        self._free = deque(numbers)
        self._waiting: deque[_Turn] = deque()
        self._is_closed = False

    def take(self) -> int:
        """A free number; ClosedError once the line is closed."""
        with self._lock:
            if self._is_closed:
                raise ClosedError("the session was closed")
            if self._free:
                return self._free.popleft()
            turn = _Turn()
            self._waiting.append(turn)
        try:
            turn.has_come.acquire()
        except BaseException:  # Ctrl-C: what has come meanwhile goes to the next
            self._leave(turn)
            raise
        if turn.number is None:
            raise ClosedError("the session was closed while a prediction waited for its turn")
        return turn.number

    def give(self, number: int) -> None:
        with self._lock:
            if self._waiting:
                turn = self._waiting.popleft()
                turn.number = number
                turn.has_come.release()
            else:
                self._free.append(number)

    def close(self) -> None:
        """Turn away who waits and who comes."""
        with self._lock:
            self._is_closed = True
            while self._waiting:
                self._waiting.popleft().has_come.release()

    def _leave(self, turn: _Turn) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return
        if turn.number is not None:
            self.give(turn.number)
