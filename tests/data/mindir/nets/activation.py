"""Activations."""

import math
from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from tests.data.mindir.nets.case import Case, given, normal
from tests.data.mindir.nets.function import Cases

CASES = Cases()
ERF = np.vectorize(math.erf)
SPREAD = given([[-9.0, -3.0, -2.5, -1.0, -0.5, -0.0], [0.25, 0.5, 1.0, 3.0, 6.5, 30.0]])


def spread(rng: Any) -> Any:
    """Numbers on both sides of every corner of every activation."""
    return [array.astype("float32") for array in SPREAD(rng)]


@CASES.of(spread)
def relu_family(x: Any) -> Any:
    return (
        ops.relu(x),
        ops.relu6(x),
        ops.leaky_relu(x, 0.2),
        ops.elu(x),
        ops.selu(x),
        ops.celu(x, 0.7),
    )


@CASES.of(spread)
def gelu_forms(x: Any) -> Any:
    return ops.gelu(x, approximate="tanh"), ops.gelu(x, approximate="none")


@CASES.of(spread, expected=lambda x: [x * (1 + ERF(x / np.sqrt(2))) / 2])
def gelu_of_mint(x: Any) -> Any:
    return mint.nn.functional.gelu(x)


@CASES.of(spread)
def hard_ones(x: Any) -> Any:
    return (
        ops.hardswish(x),
        ops.hardsigmoid(x),
        ops.hardshrink(x, 0.75),
        ops.softshrink(x, 0.3),
        ops.hardtanh(x, -0.4, 2.0),
        ops.threshold(x, 0.3, 9.0),
    )


@CASES.of(spread)
def smooth_ones(x: Any) -> Any:
    return (
        ops.sigmoid(x),
        ops.tanh(x),
        ops.silu(x),
        ops.mish(x),
        ops.softsign(x),
        ops.logsigmoid(x),
        ops.softplus(x),
        ops.tanhshrink(x),
    )


@CASES.of(spread)
def softplus_with_beta(x: Any) -> Any:
    return mint.nn.functional.softplus(x, 2.0, 5.0), mint.nn.functional.softplus(x)


@CASES.of(normal((2, 3, 4)))
def softmax_axes(x: Any) -> Any:
    return (
        ops.softmax(x, 0),
        ops.softmax(x, 1),
        ops.softmax(x, -1),
        ops.log_softmax(x, 1),
        ops.log_softmax(x, -1),
        ops.softmin(x, 1),
        mint.nn.functional.softmax(x, 1),
        mint.nn.functional.log_softmax(x, 2),
    )


@CASES.of(normal((2, 6, 4)))
def glu_and_prelu(x: Any) -> Any:
    return ops.glu(x, 1), ops.glu(x)


@CASES.of(normal((3, 5), dtype="float16"))
def half_precision(x: Any) -> Any:
    return ops.relu(x), ops.sigmoid(x), ops.tanh(x), ops.softmax(x, -1)


@CASES.of(normal((3, 5), dtype="float64"))
def double_precision(x: Any) -> Any:
    return ops.relu(x), ops.sigmoid(x), ops.tanh(x), ops.softmax(x, -1)


@CASES.of(given([[-3, 0, 4]]))
def relu_of_whole_numbers(x: Any) -> Any:
    return ops.relu(x.astype(ms.int32)), ops.relu(x.astype(ms.int8))


def cases() -> Iterator[Case]:
    yield from CASES
    for rank in (2, 4):
        shape = (2, 3, 2, 2)[:rank]
        yield Case(f"prelu_by_channel_rank{rank}", lambda: nn.PReLU(3, 0.3), normal(shape))
    yield Case("prelu_of_one_slope", lambda: nn.PReLU(1), normal((2, 3, 4)))
    yield Case("layers", Layers, spread)
    yield Case("dropout_is_refused", Training, normal((2, 3)), refused="which is training")


class Layers(nn.Cell):
    """The classes of mindspore.nn, which may write other operators than the functions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.CellList(
            [
                nn.ReLU(),
                nn.ReLU6(),
                nn.LeakyReLU(0.1),
                nn.ELU(),
                nn.GELU(),
                nn.GELU(approximate=False),
                nn.FastGelu(),
                nn.HSwish(),
                nn.HSigmoid(),
                nn.SiLU(),
                nn.Mish(),
                nn.Sigmoid(),
                nn.Tanh(),
                nn.Softmax(),
                nn.LogSoftmax(),
                nn.LogSigmoid(),
                nn.Softsign(),
                nn.SoftShrink(),
                nn.HShrink(),
                nn.CELU(),
                nn.SeLU(),
                nn.Dropout(p=0.5),
            ]
        )

    def construct(self, x: Any) -> Any:
        found = []
        for layer in self.layers:
            found.append(layer(x))  # noqa: PERF401 - MindSpore parses this
        return tuple(found)


class Training(nn.Cell):
    def construct(self, x: Any) -> Any:
        return ops.dropout(x, 0.5, training=True)
