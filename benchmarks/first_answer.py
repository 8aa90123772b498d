"""First answer: in a process that has imported everything and opened nothing yet, how long until a
model has answered once? A fresh process that attaches, a forked one whose parent is attached, and
the floor: a fresh one with a private session.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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
            lambda: _forked(subject, parent),
            lambda: _fresh(subject, "private"),
            rounds=rounds,
        )
    bars = subject.model.bars
    for what, values, limit in (
        ("attach and first answer", ours, bars.first_answer),
        ("first answer in a forked child", forked, bars.forked),
    ):
        yield Comparison(
            "first-answer",
            f"{what}, {subject.title}",
            "s",
            values,
            floor,
            "private, fresh",
            Bar.at_most(limit),
            subject.name,
        )


def _fresh(subject: Subject, kind: Kind) -> float:
    with starting(subject, kind) as worker:
        worker.admit()
        first = worker.ask(do="begin")
    if first["imported"]:
        raise UsageError(f"imported while the clock ran: {', '.join(first['imported'])}")
    return float(first["first_s"])


@contextmanager
def _forking_worker(subject: Subject) -> Iterator[Worker]:
    with starting(subject, "weightd", module="forking_worker") as worker:
        worker.admit()
        worker.ask(do="begin")
        yield worker


def _forked(subject: Subject, parent: Worker) -> float:
    parent.send(do="fork")
    parent.admit()
    return float(parent.ask(do="begin")["first_s"])
