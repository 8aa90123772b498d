"""Memory: what more and more workers of one model take, with weightd and with private sessions.

PSS counts a page that several map once in all. Each worker has predicted once and waits. What the
daemon holds is a row of its own: the workers' PSS has those of its pages that they have touched.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.job import Kind
from weightd.benchmarks.plan import MIB
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.turns import in_turns
from weightd.benchmarks.workers import Worker, starting
from weightd.ipc import memory

_PRIVATE_TIMES = 2  # of its weights, while a private session packs them
_PROCESS_NBYTES = 60 * MIB
_FLOOR_NAME = "private sessions"
_BAR_WORKERS = 4


@dataclass(frozen=True)
class Reading:
    """So many workers at once. private_mib: of each."""

    workers: int
    pss_mib: float
    private_mib: tuple[float, ...]


def fitting(subject: Subject, counts: tuple[int, ...]) -> tuple[int, ...]:
    """Those numbers of private sessions that this machine has the memory for."""
    each = _PRIVATE_TIMES * subject.nbytes + _PROCESS_NBYTES
    room = memory.available().nbytes
    return tuple(count for count in counts if count * each <= room)


def measure(subject: Subject, counts: tuple[int, ...], rounds: int) -> Iterator[Comparison]:
    """Rows for each number of workers; counts: ascending."""
    ours, floor = in_turns(
        lambda: _readings(subject, "weightd", counts),
        lambda: _readings(subject, "private", counts),
        rounds=rounds,
    )
    for index, count in enumerate(counts):
        limit = subject.model.bars.memory_of_4_mib if count == _BAR_WORKERS else None
        yield Comparison(
            "memory",
            f"memory of {count} worker{'s' * (count > 1)}, {subject.title}",
            "MiB",
            tuple(readings[index].pss_mib for readings in ours),
            tuple(readings[index].pss_mib for readings in floor),
            _FLOOR_NAME,
            Bar.at_most(limit, "ours"),
            subject.name,
            count,
        )
    yield _private_memory(subject, [r[-1] for r in ours], [r[-1] for r in floor])
    yield _held_memory(subject)


def _private_memory(subject: Subject, ours: list[Reading], floor: list[Reading]) -> Comparison:
    private = tuple(mib for reading in floor for mib in reading.private_mib)
    allowance = subject.model.bars.private_mib
    without_weights = median(private) - subject.nbytes / MIB
    return Comparison(
        "memory",
        f"private memory of each, {subject.title}",
        "MiB",
        tuple(mib for reading in ours for mib in reading.private_mib),
        private,
        _FLOOR_NAME,
        Bar.at_most(None if allowance is None else without_weights + allowance, "ours"),
        subject.name,
    )


def _held_memory(subject: Subject) -> Comparison:
    held = subject.client.status().models[subject.name].nbytes / MIB
    weights = subject.nbytes / MIB
    what = f"held by the daemon, {subject.title}"
    return Comparison("memory", what, "MiB", (held,), (weights,), "the weights", model=subject.name)


def _readings(subject: Subject, kind: Kind, counts: tuple[int, ...]) -> list[Reading]:
    """More and more workers; one reading at each count, with all of them alive."""
    readings = []
    with ExitStack() as stack:
        workers: list[Worker] = []
        for count in counts:
            new = [
                stack.enter_context(starting(subject, kind)) for _ in range(count - len(workers))
            ]
            _begin(new)
            workers += new
            readings.append(_reading(workers))
    return readings


def _begin(workers: list[Worker]) -> None:
    for worker in workers:
        worker.admit()
    for worker in workers:
        worker.send(do="begin")
    for worker in workers:
        worker.receive()


def _reading(workers: list[Worker]) -> Reading:
    found = [worker.ask(do="measure") for worker in workers]
    return Reading(
        len(workers),
        sum(one["Pss"] for one in found) / MIB,
        tuple(one["Private_Dirty"] / MIB for one in found),
    )
