"""Comparisons, logic and choices."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
from mindspore import ops

from tests.data.mindir.nets.case import Case, both, given, normal, whole
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(whole((3, 4), (3, 4), low=0, high=3))
def of_whole_numbers(x: Any, y: Any) -> Any:
    return (
        x == y,
        x != y,
        x > y,
        x >= y,
        x < y,
        x <= y,
        x == 1,
        x != 2,
        x > 0.5,
        x >= 1,
        x < 2,
        x <= 1,
    )


@CASES.of(both(normal((3, 4)), whole((4,), low=0, high=2)))
def of_different_dtypes(x: Any, n: Any) -> Any:
    return x > n, x == n, n == (n > 0), x < 0.25, x < 1, ops.equal(x, x), ops.not_equal(x, 0)


@CASES.of(normal((3, 4), (4,)))
def logic(x: Any, y: Any) -> Any:
    a, b = x > 0, y > 0
    return (
        ops.logical_and(a, b),
        ops.logical_or(a, b),
        ops.logical_xor(a, b),
        ops.logical_not(a),
        a & b,
        a | b,
        ops.logical_and(x, y),
    )


@CASES.of(normal((3, 4), (3, 4)))
def choices(x: Any, y: Any) -> Any:
    return (
        ops.where(x > y, x, y),
        ops.where(x > 0, x, 0.0),
        ops.select(x > y, x, y),
        ops.masked_fill(x, y > 0, -1e9),
        x.masked_fill(x < 0, 0.5),
        ops.where(x > 0, 1, 2),
    )


@CASES.of(whole((3, 4), (3, 4)))
def choices_of_whole_numbers(x: Any, y: Any) -> Any:
    return (
        ops.where(x > y, x, y),
        ops.masked_fill(x, y > 0, 7),
        ops.where(x > 0, x.astype(ms.int8), y.astype(ms.int8)),
        ops.where(x > 0, x > 3, y > 3),
    )


@CASES.of(given([1.0, 2.0, 1e6, 3.0], [1.0, 2.1, 1e6 + 1, 3.00001]))
def nearness(x: Any, y: Any) -> Any:
    return ops.isclose(x.astype(ms.float32), y.astype(ms.float32), 1e-5, 1e-8)


def cases() -> Iterator[Case]:
    yield from CASES
