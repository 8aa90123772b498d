"""Networks whose sizes are open."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from tests.data.mindir.nets.case import Arrays, Case, normal
from tests.data.mindir.nets.function import Cases

CASES = Cases()


def growing(*shapes: tuple[int, ...]) -> Any:
    """Arguments of these shapes, one more in each open axis for each run. An open axis is < 0."""
    runs = iter(range(9))

    def inputs(rng: np.random.Generator) -> Arrays:
        more = next(runs)
        sizes = [tuple(-size + more if size < 0 else size for size in shape) for shape in shapes]
        return [rng.standard_normal(shape).astype(np.float32) for shape in sizes]

    return inputs


@CASES.of(growing((-2, -4, 4)), shapes=[[None, None, 4]], runs=2)
def computed_shapes(x: Any) -> Any:
    b, h = x.shape[0], x.shape[1]
    return (
        ops.reshape(x, (b * h, 2, -1)),
        ops.reshape(x, (b, h // 2 * 0 + h, 4)),
        ops.zeros((b, 3), ms.float32) + x[:, :1, :3].sum(1),
        ops.broadcast_to(x[:, :1], (b, h, 4)),
        x[:, : h - 1],
        x.reshape(b, -1),
        ops.transpose(x, (1, 0, 2)),
    )


@CASES.of(growing((-2, 3), (1, 3)), shapes=[[None, 3], None], runs=2)
def repeated_by_size(x: Any, y: Any) -> Any:
    b = x.shape[0]
    return ops.tile(y, (b, 1)), ops.concat((x, ops.ones((b, 1), ms.float32)), 1), ops.arange(b)


@CASES.of(growing((-2, -3, 4)), shapes=[[None, None, 4]], runs=3)
def causal_mask(x: Any) -> Any:
    length = x.shape[1]
    positions = ops.arange(length)
    mask = positions.reshape(1, -1) > positions.reshape(-1, 1)
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    return ops.softmax(ops.masked_fill(scores, mask, -1e9), -1)


@CASES.of(growing((-2, -3)), shapes=[[None, None]], runs=2)
def sizes_as_values(x: Any) -> Any:
    return x / x.shape[1], x.sum() / x.size, ops.ones_like(x), x.mean(0)


class Classifier(nn.Cell):
    """What most people export with an open batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, pad_mode="valid", has_bias=True)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2, 2)
        self.flatten = nn.Flatten()
        self.dense = nn.Dense(4 * 3 * 3, 5)

    def construct(self, x: Any) -> Any:
        x = self.pool(ops.relu(self.norm(self.conv(x))))
        return self.dense(self.flatten(x)), self.dense(x.view(x.shape[0], -1))


@CASES.of(growing((-2, -5, 4)), shapes=[[None, None, 4]], runs=2)
def numbers_of_sizes(x: Any) -> Any:
    b, s = x.shape[0], x.shape[1]
    return (
        x / (s / 2 - 0.25),
        x * (b / s),
        x * s**2,
        x * s**0.5,
        x + -b,
        x[:, : (1 - b) % 3 + 1],
        x[:, : (0 - s) // 3 + 4],
        x.reshape((b,) + (s, 2) + (1,) * 2 + (2,)),
    )


class Encoder(nn.Cell):
    """MindSpore's own layer compares the sizes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)

    def construct(self, x: Any) -> Any:
        return self.layer(x)


class Checked(nn.Cell):
    def construct(self, x: Any, y: Any) -> Any:
        if x.shape != y.shape:
            raise ValueError(f"{x.shape} and {y.shape}")
        return x + y


class CheckedAgainstItself(nn.Cell):
    """What raises is no part of the graph where it is known that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.checked = Checked()

    def construct(self, x: Any) -> Any:
        for _ in range(2):
            x = self.checked(x, x)
        return x


def cases() -> Iterator[Case]:
    yield from CASES
    yield Case("classifier", Classifier, growing((-2, 1, 8, 8)), shapes=[[None, 1, 8, 8]], runs=3)
    yield Case("two_open_inputs", Sum, normal((2, 3), (2, 3)), shapes=[[None, 3], [None, 3]])
    yield Case("encoder_of_open_sizes", Encoder, growing((-2, 3, 4)), shapes=[[None, 3, 4]], runs=2)
    yield Case(
        "check_of_one_tensor", CheckedAgainstItself, growing((-2, 3)), shapes=[[None, 3]], runs=2
    )
    yield Case(
        "check_of_sizes_is_refused",
        Checked,
        normal((2, 3), (2, 3)),
        shapes=[[None, 3], [None, 3]],
        refused="raises an error for sizes that do not fit",
    )


class Sum(nn.Cell):
    def construct(self, x: Any, y: Any) -> Any:
        return x + y, ops.concat((x, y), 0)
