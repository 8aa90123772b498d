"""The benchmark from the first measurement to the last."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from weightd.benchmarks import (
    api,
    attach,
    crowd,
    first_answer,
    memory,
    predict,
    publish,
    swap,
    verify,
)
from weightd.benchmarks.comparison import Comparison
from weightd.benchmarks.daemon import Place, running_daemon
from weightd.benchmarks.model import Model
from weightd.benchmarks.plan import MIB, Effort, Plan
from weightd.benchmarks.subject import Subject, prepare
from weightd.benchmarks.swap import Timeline
from weightd.demo.interruption import Signals
from weightd.demo.process import DemoError
from weightd.errors import BrokenPeerError, WeightdError
from weightd.ipc.memory import available

Say = Callable[[str], object]
OfTensors = Callable[[Place, int, int], Comparison]


@dataclass
class Findings:
    """All that was measured. engines: by model; notes: why not another. skipped: what was not
    measured, and why; failed: what ended with an error, and with which.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run(plan: Plan, say: Say) -> Findings:
    """Measure; `say` gets a line about each step. Runs in the main thread.

    An error ends one measurement and no more, and is raised only when nothing else was found. A
    signal that ends the whole comes out as Interrupted. However it ends, no process, socket or
    file of the benchmark is left.
    """
    findings = Findings()
    with Signals() as signals, signals.raised():
        _Run(plan, say, findings).all()
    return findings


class _Run:
    """One run under way."""

    def __init__(self, plan: Plan, say: Say, findings: Findings) -> None:
        self._plan = plan
        self._say = say
        self._findings = findings
        self._errors: list[WeightdError] = []

    def all(self) -> None:
        effort = self._plan.effort
        if "attach" in self._plan.measurements:
            self._attaches(effort)
        if "publish" in self._plan.measurements:
            self._publishes(effort)
        if "verify" in self._plan.measurements:
            self._verifies(effort)
        if set(self._plan.measurements) - {"attach", "verify"}:
            for model in self._plan.models:
                self._of_model(model)
        if self._errors and not self._findings.comparisons:
            raise self._errors[0]

    def _attaches(self, effort: Effort) -> None:
        for nbytes in effort.attach_nbytes:
            self._of_tensors(attach.measure, nbytes, attach.COPIES, effort.attach)
        least = min(effort.attach_nbytes)
        self._of_tensors(attach.measure_manifest, least, attach.COPIES, effort.attach)
        with self._trying("four processes at once"), running_daemon() as place:
            self._findings.comparisons += crowd.measure(place, least, effort.crowd)

    def _publishes(self, effort: Effort) -> None:
        for nbytes in effort.publish_nbytes:
            self._of_tensors(publish.measure_tensors, nbytes, publish.COPIES, effort.publish)
        for kind, nbytes in itertools.product(effort.formats, effort.format_nbytes):
            measure = partial(publish.measure_format, kind)
            self._of_tensors(measure, nbytes, publish.COPIES, effort.publish)

    def _verifies(self, effort: Effort) -> None:
        for nbytes in effort.verify_nbytes:
            self._of_tensors(verify.measure, nbytes, verify.COPIES, effort.verify)

    def _of_tensors(self, measure: OfTensors, nbytes: int, copies: int, rounds: int) -> None:
        """What needs no model, if the machine has the memory for so many copies of the tensors."""
        what = f"{nbytes // MIB} MiB of tensors"
        if copies * nbytes > available().nbytes:
            self._findings.skipped.append(f"{what}: too little memory")
            return
        with self._trying(what), running_daemon() as place:
            self._findings.comparisons.append(measure(place, nbytes, rounds))

    def _of_model(self, model: Model) -> None:
        with self._trying(f"{model.title}, preparing"), running_daemon() as place:
            subject = prepare(model, place, self._plan.engine)
            self._findings.engines[model.name] = subject.engine
            if subject.note:
                self._findings.notes.append(f"{model.title}: {subject.note}")
            for measurement in self._plan.measurements:
                with self._trying(f"{model.title}, {measurement}"):
                    for row in self._rows(subject, measurement):
                        self._findings.comparisons.append(row)

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """An error costs what is done in here."""
        self._say(what)
        try:
            yield
        except (WeightdError, DemoError) as error:
            if not isinstance(error, WeightdError):
                error = BrokenPeerError(f"a process of the benchmark failed: {error}")
            self._errors.append(error)
            self._findings.failed.append(f"{what}: {error}")

    def _rows(self, subject: Subject, measurement: str) -> Iterator[Comparison]:
        effort = self._plan.effort
        match measurement:
            case "memory":
                yield from self._memory(subject)
            case "predict":
                yield from predict.measure(subject, effort)
            case "first-answer":
                yield from first_answer.measure(subject, effort.first_answer)
            case "swap":
                yield from self._swap(subject)
            case "publish":
                yield publish.measure_model(subject, effort.publish)
            case "api":
                yield from api.measure(subject, effort)

    def _memory(self, subject: Subject) -> Iterator[Comparison]:
        counts = memory.fitting(subject, self._plan.workers)
        for count in self._plan.workers[len(counts) :]:
            self._skip(subject, f"{count} private sessions do not fit into this machine's memory")
        if counts:
            yield from memory.measure(subject, counts, self._plan.effort.memory)

    def _swap(self, subject: Subject) -> Iterator[Comparison]:
        swaps = swap.measure(subject, self._plan.effort)
        if swaps is None:
            self._skip(subject, "its answers do not tell one version from the other")
            return
        self._findings.timelines.append(swaps.timeline)
        yield from swaps.rows

    def _skip(self, subject: Subject, why: str) -> None:
        self._findings.skipped.append(f"{subject.title}: {why}")
