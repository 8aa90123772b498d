"""Predict: an attachment against a private onnxruntime session of the same model in this process.

Both use one thread. The private session has every optimisation and pre-packing, as it comes.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.onnxruntime import PrivateSession
from weightd.benchmarks.plan import Effort
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.turns import in_turns, seconds_of
from weightd.errors import PredictError
from weightd.weights.arrays import Array

_CALLS_S = 0.02  # how long one round calls each side
_LEAST_ROUNDS = 5
_WARMUP = 1
_TOLERANCE = 1e-3


def measure(subject: Subject, effort: Effort) -> Iterator[Comparison]:
    """One row for each batch. PredictError when the two differ in more than rounding."""
    private = PrivateSession(subject.file)
    with subject.attach_here() as attachment:
        for batch, inputs in subject.inputs.items():
            _check_same_answer(subject, attachment.predict(inputs), private.predict(inputs))
            ours, floor = compare(
                partial(attachment.predict, inputs), partial(private.predict, inputs), effort
            )
            yield Comparison(
                "predict",
                f"predict, {subject.title}" + (f", batch {batch}" if batch else ""),
                "s",
                ours,
                floor,
                "private session",
                Bar.at_most(subject.model.bars.predict),
                subject.name,
            )


def compare(
    ours: Callable[[], object], floor: Callable[[], object], effort: Effort
) -> tuple[tuple[float, ...], ...]:
    """Seconds of one call of each, as many times as the effort is worth."""
    once_s = seconds_of(floor)
    calls = max(1, int(_CALLS_S / once_s))
    affordable = effort.predict_s / (2 * calls * once_s)
    rounds = int(min(effort.predict, max(_LEAST_ROUNDS, affordable)))
    return in_turns(
        lambda: _mean_s(ours, calls),
        lambda: _mean_s(floor, calls),
        rounds=rounds,
        warmup=_WARMUP,
    )


def _mean_s(call: Callable[[], object], calls: int) -> float:
    def repeat() -> None:
        for _ in range(calls):
            call()

    return seconds_of(repeat) / calls


def _check_same_answer(
    subject: Subject, ours: dict[str, Array], expected: dict[str, Array]
) -> None:
    for name, output in expected.items():
        atol = _TOLERANCE * np.nanmax(np.abs(output), initial=0)
        if not np.allclose(ours[name], output, rtol=_TOLERANCE, atol=atol, equal_nan=True):
            raise PredictError(
                f"weightd and a private session differ in output {name!r} of {subject.title}; "
                "their times are not comparable"
            )
