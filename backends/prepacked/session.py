"""A worker's session on packed weights: runs on a core, switches it, and falls back when it must.

open    a core is built; its reference answer is checked in a thread. The first run goes on
        beside that, and gives its outputs out only when the check has passed
swap    same graph: the core shows the new pages, then the answer is checked. Another graph, or
        a wrong answer: a new core is built aside, checked, and exchanged
else    the plain mechanism over the original tensors, if the version has them
"""

import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Self

from weightd.backends import onnxruntime
from weightd.backends.answer import Arrays
from weightd.backends.current import Current
from weightd.backends.portable import Portable
from weightd.backends.prepacked.core import Core
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.errors import (
    AnswerError,
    BadManifestError,
    CompileError,
    EngineMismatchError,
    PredictError,
    TensorsNeededError,
    WeightdError,
)
from weightd.weights.arrays import Array

log = logging.getLogger("weightd.worker")

_UNFIT = (AnswerError, BadManifestError, CompileError, EngineMismatchError, PredictError)


class _Packed:
    """A core, and the check of its first answer, which the first runs wait for."""

    engine = "prepacked"
    note = ""

    def __init__(self, version: MappedVersion, threads: Threads) -> None:
        onnxruntime.check_stamp(version.manifest.stamp)
        self.core = Core(version, threads)
        self._is_right = False
        self._wrong = ""
        self._thread: threading.Thread | None = None

    def check_aside(self) -> None:
        """Begin the check in a thread."""
        # No daemon thread: the interpreter would end it inside the engine, which aborts.
        self._thread = threading.Thread(target=self._try_check, name="weightd:check", daemon=False)
        self._thread.start()

    def wait_for_check(self) -> None:
        """Return once nothing of it is under way. In a fork's child nothing is."""
        if self._thread is not None:
            self._thread.join()

    def wait_until_checked(self) -> None:
        """Return once its answer was right; AnswerError when it was wrong. A check that could not
        be made, for want of memory say, is made again by whoever waits for it next."""
        if self._is_right:
            return
        self.wait_for_check()
        if not self._is_right and not self._wrong:
            self._check()
        if self._wrong:
            raise AnswerError(self._wrong)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        outputs = self.core.run(inputs)
        self.wait_until_checked()
        return outputs

    def _try_check(self) -> None:
        with contextlib.suppress(WeightdError, MemoryError):
            self._check()

    def _check(self) -> None:
        try:
            self.core.check()
        except AnswerError as error:
            self._wrong = str(error)  # the error itself would keep the version's memory
        else:
            self._is_right = True


class _Unusable:
    """Nothing in this process can run the version. note: why, and what would help."""

    engine = "none"

    def __init__(self, why: WeightdError) -> None:
        self.note = str(why)
        log.error("%s", self.note)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        raise TensorsNeededError(self.note)


_Opened = _Packed | Portable | _Unusable


def _opened(version: MappedVersion, threads: Threads) -> _Packed | Portable:
    try:
        return _Packed(version, threads)
    except _UNFIT as error:
        return Portable(version, threads, error)


def _checked(version: MappedVersion, threads: Threads) -> _Packed | Portable:
    """As _opened(), its answer known to be right."""
    opened = _opened(version, threads)
    if isinstance(opened, _Packed):
        try:
            opened.wait_until_checked()
        except AnswerError as error:
            return Portable(version, threads, error)
    return opened


class PrepackedSession:
    """Session on packed weights. Safe from several threads; one thread swaps."""

    compiled_by = "prepacked"

    def __init__(self, opened: _Opened, threads: Threads) -> None:
        self._threads = threads
        self._falling = threading.Lock()
        self._current: Current[_Opened] = Current(opened)

    @classmethod
    def open(cls, version: MappedVersion, threads: Threads) -> Self:
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
        if not isinstance(opened, _Packed):
            return self._current.exchange(_checked(version, self._threads))
        if opened.core.shows(version):
            return 0.0
        previous = opened.core.version
        if opened.core.takes(version):
            try:
                return self._show(opened, version)
            except (OSError, MemoryError, WeightdError) as error:
                # The text alone: a record that is kept would keep the traceback, and so the memory.
                why = str(error)
                log.warning("a new session is opened, since a switch in place failed: %s", why)
        try:
            return self._current.exchange(_checked(version, self._threads))
        except BaseException:
            opened.core.show_again(previous)
            raise

    def close(self) -> None:
        """The check of the answer, which is a run too, finishes first."""
        opened = self._current.close()
        if isinstance(opened, _Packed):
            opened.wait_for_check()

    def _show(self, opened: _Packed, version: MappedVersion) -> float:
        opened.wait_until_checked()
        pause_us = opened.core.show(version)
        opened.core.check()
        return pause_us

    def _fall(self, opened: _Opened, why: AnswerError) -> None:
        """Exchange a core whose answer was wrong for the plain mechanism, once."""
        with self._falling:
            if self._current.get() is not opened or not isinstance(opened, _Packed):
                return
            fallen: _Opened
            try:
                fallen = Portable(opened.core.version, self._threads, why)
            except WeightdError as error:
                fallen = _Unusable(error)
            self._current.exchange(fallen)
