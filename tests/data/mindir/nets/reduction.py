"""Reductions, and what looks along an axis."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from tests.data.mindir.nets.case import Case, given, normal, whole
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((2, 3, 4)))
def sums(x: Any) -> Any:
    return (
        ops.sum(x),
        ops.sum(x, 1),
        ops.sum(x, (0, -1), keepdim=True),
        x.sum(),
        x.sum(-1, keepdims=True),
        ops.reduce_sum(x, 1),
        mint.sum(x, 2),
    )


@CASES.of(normal((2, 3, 4)))
def means(x: Any) -> Any:
    return (
        x.mean(),
        ops.mean(x, 1),
        ops.mean(x, (1, 2), keep_dims=True),
        mint.mean(x, -1),
        x.mean(axis=0),
    )


@CASES.of(normal((2, 3, 4)))
def extremes(x: Any) -> Any:
    return (
        ops.amax(x, 1),
        ops.amin(x, (0, 2), keepdims=True),
        x.max(),
        x.min(),
        ops.max(x, 1),
        ops.min(x, -1, keepdims=True),
        mint.max(x, 1),
        mint.min(x),
        ops.prod(x, 1),
        ops.logsumexp(x, 1),
    )


@CASES.of(whole((2, 3, 4), low=-3, high=3))
def of_whole_numbers(x: Any) -> Any:
    return x.sum(), ops.sum(x, 1), ops.amax(x, 1), ops.amin(x, 0), ops.max(x, 2), ops.prod(x, 2)


@CASES.of(normal((2, 3)))
def of_bools(x: Any) -> Any:
    y = x > 0
    return (
        ops.all(y, 1),
        ops.any(y, 1),
        y.all(),
        y.any(),
        ops.all(y, 0, True),
        y.sum(),
        y.astype(ms.float32).mean(),
    )


@CASES.of(given([[3, 1, 3, 2], [0, 5, 5, 5]]))
def places_with_ties(x: Any) -> Any:
    y = x.astype(ms.float32)
    return (
        ops.argmax(y, 1),
        ops.argmin(y, 1),
        ops.argmax(y),
        y.argmax(0),
        ops.argmax(y, -1, keepdim=True),
        ops.Argmax(axis=1)(y),
        ops.Argmin(axis=0)(y),
        ops.max(y, 1),
        mint.argmax(y, 1),
    )


@CASES.of(normal((2, 7)))
def largest(x: Any) -> Any:
    return (
        ops.topk(x, 3),
        ops.topk(x, 2, largest=False),
        ops.topk(x, 1, dim=0),
        ops.sort(x),
        ops.sort(x, 0, True),
    )


@CASES.of(normal((2, 3, 4)))
def running_sums(x: Any) -> Any:
    return ops.cumsum(x, 1), ops.cumsum(x, -1)


@CASES.of(
    normal((2, 3, 4)),
    expected=lambda x: [
        np.cumsum(x, 0),
        np.var(x, 1, ddof=1),
        np.std(x, 1),
        np.std(x, (0, 2), ddof=1, keepdims=True),
        np.linalg.norm(x, axis=1),
    ],
)
def of_mint(x: Any) -> Any:
    return (
        mint.cumsum(x, 0),
        mint.var(x, 1),
        mint.std(x, 1, correction=0),
        mint.std(x, (0, 2), keepdim=True),
        mint.norm(x, 2, 1),
    )


@CASES.of(whole((2, 5)))
def running_sums_of_whole_numbers(x: Any) -> Any:
    return ops.cumsum(x, 1), ops.cumsum(x.astype(ms.int64), 0)


@CASES.of(normal((3, 4, 5)))
def moments(x: Any) -> Any:
    return (
        ops.var(x, 1),
        ops.std(x, 1),
        ops.var(x, (1, 2), ddof=1),
        ops.std(x),
        x.std(),
        x.var(axis=0, keepdims=True),
    )


@CASES.of(normal((2, 3, 4)), shapes=[[None, None, 4]], runs=2)
def of_open_shapes(x: Any) -> Any:
    return (
        x.mean(1),
        x.sum(),
        ops.amax(x, 0),
        ops.argmax(x, -1),
        ops.cumsum(x, 1),
        ops.softmax(x, 1),
    )


def cases() -> Iterator[Case]:
    yield from CASES
