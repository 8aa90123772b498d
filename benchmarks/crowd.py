"""Four processes that attach and detach at once, without a break: how many of them there are in a
second, and how long the slowest of a hundred takes."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from weightd.benchmarks.attach import bare_server
from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.daemon import Place
from weightd.benchmarks.turns import in_turns
from weightd.benchmarks.workers import module_command
from weightd.demo.process import Child

_PEERS = 4
_ATTACHES = 250  # of each in a round
_NAME = "crowd"
_ROUND_S = 120.0
_LEAST_RATE = Bar(2000, "ours", is_least=True)
_MOST_WAIT = Bar(10.0)


@dataclass(frozen=True)
class _Round:
    rate: float  # attaches and detaches in a second, of all
    median_s: float
    p99_s: float


def measure(place: Place, nbytes: int, rounds: int) -> tuple[Comparison, ...]:
    """With plain tensors of this size."""
    with _crowd(place, nbytes) as crowd:
        ours, floor = in_turns(
            partial(_round, crowd, "weightd"),
            partial(_round, crowd, "bare"),
            rounds=rounds,
            warmup=1,
        )
    who = f"{_PEERS} processes at once"
    return (
        Comparison(
            "attach",
            f"attach and detach, {who}",
            "/s",
            tuple(each.rate for each in ours),
            tuple(each.rate for each in floor),
            "bare exchange",
            _LEAST_RATE,
            workers=_PEERS,
        ),
        Comparison(
            "attach",
            f"attach, the slowest of 100, {who}",
            "s",
            tuple(each.p99_s for each in ours),
            tuple(each.median_s for each in ours),
            "their median",
            _MOST_WAIT,
            workers=_PEERS,
        ),
    )


def _round(crowd: list[Child], way: str) -> _Round:
    for child in crowd:
        child.send(way=way, count=_ATTACHES)
    told = [child.receive(timeout_s=_ROUND_S) for child in crowd]
    took_s = max(each["ended_s"] for each in told) - min(each["began_s"] for each in told)
    times_s = sorted(time_s for each in told for time_s in each["times_s"])
    p99_s = times_s[len(times_s) * 99 // 100]
    return _Round(len(times_s) / took_s, statistics.median(times_s), p99_s)


@contextmanager
def _crowd(place: Place, nbytes: int) -> Iterator[list[Child]]:
    """The processes, which may attach a model of this size, or ask a server that has as much."""
    place.client.load(_NAME, {"weights": np.ones(nbytes, np.uint8)})
    with ExitStack() as stack:
        stack.callback(place.client.unload, _NAME)
        address = stack.enter_context(bare_server(place, nbytes))
        argv = module_command("crowd_worker", place.client.runtime_dir, _NAME, address)
        crowd = [
            stack.enter_context(closing(Child(f"{_NAME}-{number}", argv, place.folder)))
            for number in range(_PEERS)
        ]
        for child in crowd:
            place.client.allow(_NAME, child.receive(timeout_s=_ROUND_S)["pid"])
        yield crowd
