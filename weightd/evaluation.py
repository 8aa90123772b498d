"""How good a model is on a labelled set, which an attachment predicts in batches."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightd.backends.attachment import Attachment
from weightd.backends.ports import TensorInfo
from weightd.errors import BadInputError
from weightd.metrics import as_arrays, metric
from weightd.weights.arrays import Array

BATCH_SIZE = 32  # of a model that takes any

OnBatch = Callable[[int, int], object]  # samples done, samples in all


@dataclass(frozen=True)
class Evaluation:
    """What was found. values: by metric. versions: those that the answers may be of, in order; more
    than one when weights were published meanwhile. seconds: of the predictions alone."""

    samples: int
    values: dict[str, float]
    versions: tuple[int, ...]
    seconds: float


def evaluate(  # noqa: PLR0913 - each is an option
    model: Attachment,
    data: Mapping[str, Any],
    *,
    metrics: Sequence[str] = ("accuracy",),
    label: str = "label",
    output: str | None = None,
    batch_size: int | None = None,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Predict every sample of `data` and compare the answers with its labels.

    data: arrays by name: one for each of the model's inputs, whose first axis is the samples', and
    the labels under `label`; others are ignored. An array that has an input's whole shape, and not
    as many rows as there are labels, is given to each batch as it is. metrics: 'accuracy', 'topK'
    (as 'top5'), 'loss', 'mse', 'mae'. output: which one to compare; needed when there are several.

    batch_size: for a model that takes any, 32 without it. A model of a fixed batch gets that: the
    last one is filled up with its last sample, and what comes out for the filling is not counted.
    on_batch gets the samples done and all, in this thread.

    Raises BadInputError when something does not fit, and what Attachment.predict raises.
    """
    judges = [metric(name) for name in metrics]
    if not judges:
        raise BadInputError("no metric is named; name at least one")
    if label not in data:
        raise BadInputError(
            f"the data has no {label!r} for its labels; it has {_listed(data)}; name another "
            "one by `label` (--label)"
        )
    labels = as_arrays(data[label], label)
    batches = _Batches(model.inputs, data, len(labels) if labels.ndim else 0, batch_size)
    chosen = _output(model.outputs, output)
    versions: set[int] = set()
    seconds = 0.0
    for start, stop, inputs in batches:
        before, began = model.version, time.perf_counter()
        answer = model.predict(inputs)[chosen]
        seconds += time.perf_counter() - began
        versions |= {before, model.version}
        if answer.ndim == 0 or len(answer) < stop - start:
            raise BadInputError(f"output {chosen!r} of shape {answer.shape} has no row per sample")
        for judge in judges:
            judge.add(answer[: stop - start], labels[start:stop])
        if on_batch is not None:
            on_batch(stop, batches.count)
    values = {judge.name: judge.value for judge in judges}
    return Evaluation(batches.count, values, tuple(sorted(versions)), seconds)


class _Batches:
    """The samples in batches, as a model takes them."""

    def __init__(
        self,
        infos: Mapping[str, TensorInfo],
        data: Mapping[str, Any],
        count: int,
        batch_size: int | None,
    ) -> None:
        if not count:
            raise BadInputError("the data has no samples")
        missing = [name for name in infos if name not in data]
        if missing:
            raise BadInputError(f"the data lacks the input {missing[0]!r}; it has {_listed(data)}")
        self.count = count
        arrays = {name: np.asarray(data[name]) for name in infos}
        self._whole = {n: a for n, a in arrays.items() if _is_whole(a, infos[n], count)}
        self._rows = {n: a for n, a in arrays.items() if n not in self._whole}
        for name, array in self._rows.items():
            if array.ndim == 0 or len(array) != count:
                raise BadInputError(
                    f"{name!r} of shape {array.shape} does not have the {count} rows of the labels"
                )
        self._fixed = _fixed_size({name: infos[name] for name in self._rows})
        self._size = _batch_size(self._fixed, batch_size)

    def __iter__(self) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """First and one past the last sample, and the inputs for them."""
        for start in range(0, self.count, self._size):
            stop = min(start + self._size, self.count)
            rows = {name: self._filled(array[start:stop]) for name, array in self._rows.items()}
            yield start, stop, rows | self._whole

    def _filled(self, rows: Array) -> Array:
        missing = self._size - len(rows)
        if not missing or self._fixed is None:
            return rows
        return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def _is_whole(array: Array, info: TensorInfo, count: int) -> bool:
    return array.shape == info.shape and (array.ndim == 0 or len(array) != count)


def _fixed_size(infos: Mapping[str, TensorInfo]) -> int | None:
    """The batch that a model's inputs insist on; None when they take any."""
    firsts = (info.shape[0] for info in infos.values() if info.shape)
    sizes = {size for size in firsts if isinstance(size, int)}
    if len(sizes) > 1:
        raise BadInputError(f"the model's inputs have different first sizes: {sorted(sizes)}")
    size = next(iter(sizes), None)
    if size == 0:
        raise BadInputError("the model takes batches of no samples")
    return size


def _batch_size(fixed: int | None, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise BadInputError(f"batch_size is {asked}; it must be at least 1")
    if fixed is not None and asked not in (None, fixed):
        raise BadInputError(f"batch_size is {asked}, and the model takes batches of {fixed} only")
    return fixed or asked or BATCH_SIZE


def _output(infos: Mapping[str, TensorInfo], name: str | None) -> str:
    if name is not None and name not in infos:
        raise BadInputError(f"the model has no output {name!r}; it has {', '.join(infos)}")
    if name is None and len(infos) != 1:
        raise BadInputError(f"the model has several outputs, name one: {', '.join(infos)}")
    return name if name is not None else next(iter(infos))


def _listed(data: Mapping[str, Any]) -> str:
    return ", ".join(map(str, data)) or "nothing"
