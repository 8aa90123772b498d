"""Matrix products."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
from mindspore import mint, nn, ops

from tests.data.mindir.nets.case import Case, normal, whole
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((3, 4), (4, 5), (5, 4)))
def two_dimensions(x: Any, y: Any, z: Any) -> Any:
    return (
        ops.matmul(x, y),
        ops.MatMul(transpose_b=True)(x, z),
        ops.MatMul(transpose_a=True)(z, ops.MatMul()(z, y)),
        mint.matmul(x, y),
        ops.mm(x, y),
    )


@CASES.of(normal((2, 3, 4), (2, 4, 5), (2, 5, 4)))
def batches(x: Any, y: Any, z: Any) -> Any:
    return (
        ops.bmm(x, y),
        ops.BatchMatMul(transpose_b=True)(x, z),
        ops.BatchMatMul(transpose_a=True)(y, y),
        ops.matmul(x, y),
        mint.bmm(x, y),
    )


@CASES.of(normal((2, 1, 3, 4), (5, 4, 2), (4,), (3,)))
def broadcasting(x: Any, y: Any, v: Any, w: Any) -> Any:
    return ops.matmul(x, y), ops.matmul(x, v), ops.matmul(w, x), ops.matmul(v, v)


@CASES.of(normal((3, 4), (4, 5), (3, 5), (4,)))
def with_sums(x: Any, y: Any, z: Any, v: Any) -> Any:
    return (
        ops.addmm(z, x, y),
        ops.addmm(z, x, y, beta=0.5, alpha=2.0),
        ops.outer(v, v),
        ops.mv(x, v),
    )


@CASES.of(whole((3, 4), (4, 2)))
def of_whole_numbers(x: Any, y: Any) -> Any:
    return ops.matmul(x, y), ops.matmul(x.astype(ms.int64), y.astype(ms.int64))


@CASES.of(normal((3, 4), (4, 2), dtype="float64"))
def double_precision(x: Any, y: Any) -> Any:
    return ops.matmul(x, y)


@CASES.of(normal((3, 4), (4, 2), dtype="float16"))
def half_precision(x: Any, y: Any) -> Any:
    return ops.matmul(x, y)


@CASES.of(normal((2, 5), (2, 3, 4, 5), (5,)), shapes=[[None, 5], [None, 3, None, 5], None])
def of_open_shapes(x: Any, y: Any, v: Any) -> Any:
    return ops.matmul(x, v), ops.matmul(y, ops.transpose(y, (0, 1, 3, 2)))


class Layers(nn.Cell):
    """Dense of two and three dimensions, with and without a bias, and with an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Dense(4, 5)
        self.two = nn.Dense(5, 3, has_bias=False)
        self.three = nn.Dense(4, 2, activation="relu")
        self.four = mint.nn.Linear(4, 3)
        self.bias = ops.BiasAdd()

    def construct(self, x: Any, y: Any) -> Any:
        return self.two(self.one(x)), self.one(y), self.three(x), self.four(y), self.three(y)


def cases() -> Iterator[Case]:
    yield from CASES
    yield Case("layers", Layers, normal((3, 4), (2, 3, 4)))
    yield Case(
        "layers_of_open_batch", Layers, normal((3, 4), (2, 3, 4)), shapes=[[None, 4], [None, 3, 4]]
    )
    yield Case("bilinear", lambda: nn.BiDense(3, 4, 2), normal((5, 3), (5, 4)))
