"""A worker's session on packed weights: runs on a core, switches it, and falls back when it must.

open    a core is built; its reference answer is checked in a thread. The first run goes on
        beside that, and gives its outputs out only when the check has passed
swap    same graph: the core shows the new pages, then the answer is checked. Another graph, or
        a wrong answer: a new core is built aside, checked, and exchanged
else    the plain mechanism over the original tensors, if the version has them
"""

import logging
import threading
from collections.abc import Mapping
from typing import Self

from weightd.backends import onnxruntime
from weightd.backends.answer import Arrays
from weightd.backends.current import Current
from weightd.backends.portable import Portable
from weightd.backends.prepacked.core import Core
from weightd.backends.version import MappedVersion
from weightd.errors import (
    AnswerError,
    BadManifestError,
    CompileError,
    EngineMismatchError,
    PoisonedError,
    PredictError,
    WeightdError,
)
from weightd.weights.arrays import Array

log = logging.getLogger("weightd.worker")

_UNFIT = (AnswerError, BadManifestError, CompileError, EngineMismatchError, PredictError)


class _Packed:
    """A core, and the check of its first answer, which the first runs wait for."""

    engine = "prepacked"
    note = ""

    def __init__(self, version: MappedVersion, threads: int) -> None:
        onnxruntime.check_stamp(version.manifest.stamp)
        self.core = Core(version, threads)
        self._fault: WeightdError | None = None
        self._is_checked = False
        self._thread: threading.Thread | None = None

    def check_aside(self) -> None:
        """Begin the check in a thread."""
        self._thread = threading.Thread(target=self._check, name="weightd:check", daemon=True)
        self._thread.start()

    def wait_until_checked(self) -> None:
        """Return once its answer was right; else raise what was wrong with it."""
        if self._is_checked and self._fault is None:
            return
        if self._thread is not None:
            self._thread.join()
        if not self._is_checked:  # the thread was left behind by a fork
            self._check()
        if self._fault is not None:
            raise self._fault

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        outputs = self.core.run(inputs)
        self.wait_until_checked()
        return outputs

    def _check(self) -> None:
        try:
            self.core.check()
        except WeightdError as error:
            self._fault = error.with_traceback(None)  # which would keep the version's memory
        self._is_checked = True


def _opened(version: MappedVersion, threads: int) -> _Packed | Portable:
    try:
        return _Packed(version, threads)
    except _UNFIT as error:
        return Portable(version, threads, error)


class PrepackedSession:
    """Session on packed weights. Safe from several threads; one thread swaps."""

    compiled_by = "prepacked"

    def __init__(self, opened: _Packed | Portable, threads: int) -> None:
        self._threads = threads
        self._falling = threading.Lock()
        self._current = Current(opened)

    @classmethod
    def open(cls, version: MappedVersion, threads: int) -> Self:
        """On packed weights, or on the plain engine; EngineMismatchError when neither can be."""
        opened = _opened(version, threads)
        if isinstance(opened, _Packed):
            opened.check_aside()
        return cls(opened, threads)

    def inherited(self) -> "PrepackedSession | None":
        opened = self._current.get()
        return PrepackedSession(opened, self._threads) if isinstance(opened, _Packed) else None

    @property
    def engine(self) -> str:
        return self._current.get().engine

    @property
    def note(self) -> str:
        return self._current.get().note

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        opened = self._current.get()
        try:
            return opened.run(inputs)
        except AnswerError as error:
            self._fall(opened, error)
        return self._current.get().run(inputs)

    def swap(self, version: MappedVersion) -> float:
        opened = self._current.get()
        if isinstance(opened, _Packed) and opened.core.shows(version):
            return 0.0
        if isinstance(opened, _Packed) and opened.core.takes(version):
            previous = opened.core.version
            try:
                return self._show(opened, version)
            except (OSError, AnswerError, PoisonedError) as error:
                # The text alone: a record that is kept would keep the traceback, and so the memory.
                why = str(error)
                log.warning("a new session is opened, since a switch in place failed: %s", why)
            return self._exchange(version, opened, previous)
        return self._exchange(version, opened, None)

    def close(self) -> None:
        self._current.close()

    def _show(self, opened: _Packed, version: MappedVersion) -> float:
        opened.wait_until_checked()
        pause_us = opened.core.show(version)
        opened.core.check()
        return pause_us

    def _exchange(
        self, version: MappedVersion, opened: _Packed | Portable, previous: MappedVersion | None
    ) -> float:
        """Open the version aside and exchange. When that fails a core that shows it already goes
        back to the previous one."""
        try:
            newer = _opened(version, self._threads)
            if isinstance(newer, _Packed):
                newer.wait_until_checked()
        except WeightdError:
            if previous is not None and isinstance(opened, _Packed):
                opened.core.show_again(previous)
            raise
        return self._current.exchange(newer)

    def _fall(self, opened: _Packed | Portable, why: AnswerError) -> None:
        """Exchange a core whose answer was wrong for the plain mechanism, once."""
        with self._falling:
            if self._current.get() is opened and isinstance(opened, _Packed):
                self._current.exchange(Portable(opened.core.version, self._threads, why))
