"""Swap: versions are published while workers predict without a break. How long does each pause, how
slow is the first prediction after it, and is any answer missing, or of neither version?
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.opened import as_bytes
from weightd.benchmarks.plan import MIB, Effort
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.workers import Worker, starting
from weightd.errors import DaemonTimeoutError
from weightd.weights.arrays import Array

WORKERS = 4
_SWITCH_S = 120.0
_PREDICTIONS_S = 600.0
_POLL_S = 0.01
_SETTLE_S = 0.3  # on each version, so that usual predictions are in the majority
_SETTLE_PREDICTIONS = 3
_SMALL_NBYTES = 64 * MIB  # of a model of which a great many predictions are asked
_US = 1e6
_NONE = Bar(0, "ours")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Timeline:
    """Predictions through updates: when each began, what it took, when the updates were live."""

    title: str
    began_s: Array
    took_s: Array
    updates_s: tuple[float, ...]


@dataclass(frozen=True)
class Swaps:
    """What came of it."""

    rows: tuple[Comparison, ...]
    timeline: Timeline


def measure(subject: Subject, effort: Effort) -> Swaps | None:
    """None when it cannot be told by an answer which version gave it."""
    with ExitStack() as stack:
        answers = _answers(subject)
        if answers is None:
            return None
        times = [subject.place.folder / f"times-{number}.npy" for number in range(WORKERS)]
        workers = [stack.enter_context(_busy(subject, answers, path)) for path in times]
        for worker in workers:
            worker.admit()
        for worker in workers:
            worker.ask(do="begin")
        files = cycle((subject.file, subject.other))
        updates = [_update(subject, workers, file) for file in islice(files, effort.updates)]
        _wait_for_predictions(subject, workers, effort.predictions)
        found = [worker.ask(do="stop") for worker in workers]
    pauses_s = tuple(pause for update in updates for pause in update.pauses_s)
    timeline = _timeline(subject, times, tuple(update.live_s for update in updates))
    return Swaps(tuple(_rows(subject, pauses_s, found)), timeline)


def _answers(subject: Subject) -> tuple[str, ...] | None:
    """Files with the bytes that each version answers; leaves the other weights live."""
    with subject.attach_here() as attachment:

        def answer() -> bytes:
            return as_bytes(attachment.predict(subject.smallest))

        one, again = answer(), answer()
        number = subject.client.publish(subject.name, subject.other)
        attachment.wait_for_version(number, timeout_s=_SWITCH_S)
        other = answer()
    if one != again or one == other:
        return None
    # The one that is live first: a worker takes it for the version that it starts with.
    paths = [subject.place.folder / name for name in ("answer-other", "answer-one")]
    for path, answered in zip(paths, (other, one), strict=True):
        path.write_bytes(answered)
    return tuple(map(str, paths))


def _busy(subject: Subject, answers: tuple[str, ...], times: Path) -> Any:
    return starting(subject, "weightd", module="busy_worker", answers=answers, times=str(times))


@dataclass(frozen=True)
class _Update:
    """One publish, followed by all workers. live_s: when, on the workers' clock."""

    live_s: float
    pauses_s: tuple[float, ...]


def _update(subject: Subject, workers: list[Worker], file: Path) -> _Update:
    number = subject.client.publish(subject.name, file)
    live_s = time.monotonic()

    def pauses_s() -> tuple[float, ...] | None:
        mine = [w for w in subject.client.status().workers if w.model == subject.name]
        if len(mine) < WORKERS or any(worker.version != number for worker in mine):
            return None
        return tuple(worker.last_pause_us / _US for worker in mine)

    what = f"all workers of {subject.title} to switch"
    update = _Update(live_s, _waited_for(pauses_s, what, _SWITCH_S))
    _settle(workers)
    return update


def _settle(workers: list[Worker]) -> None:
    """Let each answer some more. One looks for questions once a prediction, so the second reply
    comes after one that began on the version that is live now."""
    time.sleep(_SETTLE_S)
    for _ in range(_SETTLE_PREDICTIONS):
        for worker in workers:
            worker.ask(count=True)


def _wait_for_predictions(subject: Subject, workers: list[Worker], least: int) -> None:
    if subject.nbytes > _SMALL_NBYTES:
        return

    def enough() -> int | None:
        number = sum(int(worker.ask(count=True)["requests"]) for worker in workers)
        return number if number >= least else None

    _waited_for(enough, f"{least} predictions", _PREDICTIONS_S)


def _waited_for(ask: Callable[[], Value | None], what: str, timeout_s: float) -> Value:
    """What `ask` returns as soon as that is not None."""
    deadline = time.monotonic() + timeout_s
    while (found := ask()) is None:
        if time.monotonic() > deadline:
            raise DaemonTimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_POLL_S)
    return found


def _rows(
    subject: Subject, pauses_s: tuple[float, ...], found: list[dict[str, Any]]
) -> Iterator[Comparison]:
    def row(what: str, unit: str, ours: tuple[float, ...], **more: Any) -> Comparison:
        what = f"{what}, {subject.title}"
        return Comparison("swap", what, unit, ours, model=subject.name, workers=WORKERS, **more)

    first_s = [(first, one["usual_s"]) for one in found for first in one["first_after_s"]]
    requests = (sum(one["requests"] for one in found),)
    pause_bar = Bar.at_most(subject.model.bars.pause_s, "ours")
    yield row("pause of a swap", "s", pauses_s, bar=pause_bar)
    if first_s:
        yield row(
            "first prediction after it",
            "s",
            tuple(first for first, _ in first_s),
            floor=tuple(usual for _, usual in first_s),
            floor_name="a usual one",
        )
    for word in ("failed", "torn"):
        number = sum(one[word] for one in found)
        what = f"{word} predictions"
        yield row(what, "", (number,), floor=requests, floor_name="all of them", bar=_NONE)


def _timeline(subject: Subject, times: list[Path], updates_s: tuple[float, ...]) -> Timeline:
    began_s, took_s = np.concatenate([np.load(path) for path in times], axis=1)
    return Timeline(subject.title, began_s, took_s, updates_s)
