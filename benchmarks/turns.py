"""Several ways to do one thing, measured in turns so that the machine's noise hits all alike."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def in_turns(
    *measures: Callable[[], Value], rounds: int, warmup: int = 0
) -> tuple[tuple[Value, ...], ...]:
    """What each measured, one value a round; each begins as many rounds as the others."""
    for _ in range(warmup):
        for measure in measures:
            measure()
    values: tuple[list[Value], ...] = tuple([] for _ in measures)
    for number in range(rounds):
        for turn in range(len(measures)):
            index = (number + turn) % len(measures)
            values[index].append(measures[index]())
    return tuple(map(tuple, values))


def seconds_of(action: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s
