"""First answer: in a process that has imported everything and opened nothing yet, how long until a
model has answered once? A fresh process that attaches, a forked one whose parent is attached, and
the floor: a fresh one with a private session.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.job import Kind
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.turns import in_turns
from weightd.benchmarks.workers import Worker, starting
from weightd.errors import UsageError


def measure(subject: Subject, rounds: int) -> Iterator[Comparison]:
    """The three, in turns."""
    with _forking_worker(subject) as parent:
        ours, forked, floor = in_turns(
            lambda: _fresh(subject, "weightd"),
            lambda: _forked(parent),
            lambda: _fresh(subject, "private"),
            rounds=rounds,
        )
    bars = subject.model.bars
    for what, values, of_floor, limit in (
        ("attach and first answer", _firsts(ours), _firsts(floor), bars.first_answer),
        ("first answer in a forked child", _firsts(forked), _firsts(floor), None),
        ("open in a forked child", _openings(forked), _openings(floor), bars.forked),
    ):
        yield Comparison(
            "first-answer",
            f"{what}, {subject.title}",
            "s",
            values,
            of_floor,
            "private, fresh",
            Bar.at_most(limit),
            subject.name,
        )


class _First(NamedTuple):
    """Seconds until the model was open, and until it had answered."""

    opened_s: float
    first_s: float

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "_First":
        return cls(float(told["opened_s"]), float(told["first_s"]))


def _openings(firsts: Iterable[_First]) -> tuple[float, ...]:
    return tuple(first.opened_s for first in firsts)


def _firsts(firsts: Iterable[_First]) -> tuple[float, ...]:
    return tuple(first.first_s for first in firsts)


def _fresh(subject: Subject, kind: Kind) -> _First:
    with starting(subject, kind) as worker:
        worker.admit()
        told = worker.ask(do="begin")
    if told["imported"]:
        raise UsageError(f"imported while the clock ran: {', '.join(told['imported'])}")
    return _First.of(told)


@contextmanager
def _forking_worker(subject: Subject) -> Iterator[Worker]:
    with starting(subject, "weightd", module="forking_worker") as worker:
        worker.admit()
        worker.ask(do="begin")
        yield worker


def _forked(parent: Worker) -> _First:
    parent.send(do="fork")
    parent.admit()
    return _First.of(parent.ask(do="begin"))
