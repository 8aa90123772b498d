"""What makes tensors of nothing."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
from mindspore import ops

from tests.data.mindir.nets.case import Case, given, normal
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((2, 3)))
def like_another(x: Any) -> Any:
    return (
        x + ops.zeros_like(x),
        x * ops.ones_like(x),
        ops.full_like(x, 2.5) + x,
        x + ops.ones((2, 3), ms.float32),
        ops.full((2, 3), 7, dtype=ms.int32) + x.astype(ms.int32),
        ops.eye(3, 3, ms.float32) + x[0],
        ops.arange(3) + x,
        ops.linspace(0.0, 1.0, 3) + x,
    )


@CASES.of(normal((2, 3)))
def new_ones(x: Any) -> Any:
    return x.new_zeros((2, 2)), x.new_ones((3,)) + x[0], x.new_ones((2,), dtype=ms.int32)


@CASES.of(given([[0, 2, 3], [1, -1, 7]]))
def one_hot(x: Any) -> Any:
    n = x.astype(ms.int32)
    return (
        ops.one_hot(n, 4, ms.Tensor(1.0, ms.float32), ms.Tensor(0.0, ms.float32)),
        ops.one_hot(n, 4, ms.Tensor(5, ms.int32), ms.Tensor(-1, ms.int32), axis=0),
        ops.OneHot(axis=1)(n, 3, ms.Tensor(2.0, ms.float32), ms.Tensor(0.5, ms.float32)),
    )


@CASES.of(normal((2, 3)), refused="no two answers would be the same")
def random_numbers_are_refused(x: Any) -> Any:
    return x + ops.standard_normal((2, 3))


def cases() -> Iterator[Case]:
    yield from CASES
