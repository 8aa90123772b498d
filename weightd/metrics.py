"""What can be said of a model's answers on a labelled set: each metric sums up batch by batch.

accuracy   the share of samples whose largest score is that of their label; the first of equal ones
topK       the share whose label is among the K largest (top5, top10, ...)
loss       the mean of -log softmax(scores)[label], computed in float64
mse, mae   the mean of the squared, or of the absolute difference to labels of the outputs' shape
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from weightd.errors import BadInputError
from weightd.weights.arrays import Array

KNOWN = "accuracy, topK (top5, top10, ...), loss, mse, mae"

# Of a batch's outputs and labels: what to add to the sum, and to its count.
_Measure = Callable[[Array, Array], tuple[float, int]]


class Metric:
    """The mean of a measure over all batches that were added. name: as it was asked for."""

    def __init__(self, name: str, measure: _Measure) -> None:
        self.name = name
        self._measure = measure
        self._sum = 0.0
        self._count = 0

    def add(self, outputs: Array, labels: Array) -> None:
        """Take one batch in; BadInputError when the labels do not suit the outputs."""
        total, count = self._measure(outputs, labels)
        self._sum += total
        self._count += count

    @property
    def value(self) -> float:
        """NaN before the first batch."""
        return self._sum / self._count if self._count else float("nan")


def metric(name: str) -> Metric:
    """The metric of this name; BadInputError says which there are."""
    if name in _MEASURES:
        return Metric(name, _MEASURES[name])
    if found := re.fullmatch(r"top[-_]?([1-9]\d{0,5})", name):
        return Metric(name, _among_largest(int(found[1])))
    raise BadInputError(f"no metric {name[:64]!r}; there are {KNOWN}")


def _among_largest(k: int) -> _Measure:
    def measure(outputs: Array, labels: Array) -> tuple[float, int]:
        scores = _scores(outputs)
        if k > scores.shape[1]:
            raise BadInputError(f"top{k} of {scores.shape[1]} classes; take a smaller number")
        return float(np.count_nonzero(_ranks(scores, labels) < k)), len(scores)

    return measure


def _ranks(scores: Array, labels: Array) -> Array:
    """How many classes come before the label's. Scores that are NaN put the label last."""
    places = _places(scores, labels)
    own = scores[np.arange(len(scores)), places][:, None]
    is_earlier = np.arange(scores.shape[1]) < places[:, None]
    ranks: Array = np.sum((scores > own) | ((scores == own) & is_earlier), axis=1)
    ranks[np.isnan(scores).any(axis=1)] = scores.shape[1]
    return ranks


def _loss(outputs: Array, labels: Array) -> tuple[float, int]:
    scores = _scores(outputs)
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(scores)), _places(scores, labels)].sum()), len(scores)


def _difference(power: int) -> _Measure:
    def measure(outputs: Array, labels: Array) -> tuple[float, int]:
        if outputs.shape != labels.shape:
            raise BadInputError(
                f"labels of shape {labels.shape} for outputs of {outputs.shape}; mse and mae need "
                "one for each number"
            )
        apart = np.abs(outputs.astype(np.float64) - labels.astype(np.float64)) ** power
        return float(apart.sum()), apart.size

    return measure


def _scores(outputs: Array) -> Array:
    if outputs.ndim != 2 or not outputs.shape[1]:
        raise BadInputError(
            f"an output of shape {outputs.shape[1:]} for each sample is not a score for each class"
        )
    return outputs.astype(np.float64)


def _places(scores: Array, labels: Array) -> Array:
    """The label of each sample as a whole number; one-hot rows count as such."""
    if labels.shape == scores.shape and scores.shape[1] > 1:
        is_one_hot = bool(np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1))
        if not is_one_hot:
            raise BadInputError("the labels are rows of numbers, but not one-hot: one 1 in each")
        hot: Array = np.argmax(labels, axis=1)
        return hot
    if labels.shape not in ((len(scores),), (len(scores), 1)) or labels.dtype.kind not in "iu":
        raise BadInputError(
            f"labels of {labels.dtype}{list(labels.shape[1:])} for each sample; give a whole "
            "number for each, or one-hot rows"
        )
    places = labels.reshape(-1).astype(np.int64)
    if places.size and not (places.min() >= 0 and places.max() < scores.shape[1]):
        raise BadInputError(
            f"labels from {places.min()} to {places.max()} for {scores.shape[1]} classes"
        )
    return places


_MEASURES: dict[str, _Measure] = {
    "accuracy": _among_largest(1),
    "loss": _loss,
    "mse": _difference(2),
    "mae": _difference(1),
}


def as_arrays(values: Any, name: str) -> Array:
    """Labels as an array of numbers; BadInputError when they are none."""
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise BadInputError(f"{name!r} is an array of {array.dtype}, not of numbers")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array
