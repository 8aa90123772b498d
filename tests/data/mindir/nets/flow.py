"""Branches, calls of other graphs, and several inputs and outputs."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from tests.data.mindir.nets.case import Arrays, Case, normal


class _BySum(nn.Cell):
    """A branch that uses parameters, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(4, 4)

    def construct(self, x: Any) -> Any:
        if x.sum() > 0:
            return self.dense(x)
        return x * 2


class _TwoResults(nn.Cell):
    """Branches that give two values each; one of them is what came in."""

    def construct(self, x: Any, n: Any) -> Any:
        y = x
        if n > 0:
            y = x * 2
            z = x + 1
        else:
            z = x - 1
        return y, z


class _Nested(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Dense(3, 3)
        self.other = nn.Dense(3, 3)

    def construct(self, x: Any, n: Any) -> Any:
        if n > 0:
            x = self.one(x)
            x = self.other(x) + 1 if n > 1 else ops.relu(x)
        else:
            x = -x
        if x.sum() > n:
            x = x * 3
        return x, x.mean()


class _Elif(nn.Cell):
    """Branches that end in different ways, and what comes after them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Parameter(Tensor(np.ones((3,), np.float32)), name="scale")

    def construct(self, x: Any, n: Any) -> Any:
        if n == 0:
            return x * self.scale
        if n == 1:
            x = x + self.scale
        elif n == 2:
            x = x - 1
        return x / 2


class _While(nn.Cell):
    def construct(self, x: Any, n: Any) -> Any:
        while n > 0:
            x = x * 2
            n = n - 1
        return x


class _Unrolled(nn.Cell):
    """A loop of a fixed length is no loop any more in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.CellList([nn.Dense(3, 3) for _ in range(3)])

    def construct(self, x: Any) -> Any:
        for layer in self.layers:
            x = ops.relu(layer(x))
        return x


class _Inner(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(3, 3)

    @ms.jit
    def construct(self, x: Any) -> Any:
        return ops.relu(self.dense(x))


class _Called(nn.Cell):
    """The same graph called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Inner()

    def construct(self, x: Any) -> Any:
        return self.inner(self.inner(x)) + x


class _SeveralOutputs(nn.Cell):
    """Nested tuples of outputs, an input as an output, a parameter, a constant, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.x = Parameter(Tensor(np.ones((2, 3), np.float32)), name="x")
        self.count = Parameter(Tensor(np.arange(2)), name="count")
        self.half = Parameter(Tensor(np.ones((2, 3)), ms.float16), name="half")

    def construct(self, x: Any, y: Any) -> Any:
        a, b = ops.split(y, 2, 1)
        constant = Tensor(np.arange(3, dtype=np.float32))
        return x + self.x, (b * 2, (a > b, x)), self.x, self.count + 1, self.half * 2, constant


class _Assigns(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.count = Parameter(Tensor(np.zeros((2, 3), np.float32)), name="count")

    def construct(self, x: Any) -> Any:
        self.count = self.count + 1
        return x + self.count


def _with_numbers(*numbers: int) -> Any:
    """A function that gives a row of numbers and, run by run, another whole number."""
    left = list(numbers)

    def inputs(rng: np.random.Generator) -> Arrays:
        return [rng.standard_normal((2, 3)).astype(np.float32), np.array(left.pop(0), np.int32)]

    return inputs


def cases() -> Iterator[Case]:
    yield Case("if_with_parameters", _BySum, normal((2, 4)), runs=6)
    yield Case("if_with_two_results", _TwoResults, _with_numbers(1, -1), runs=2)
    yield Case("if_nested", _Nested, _with_numbers(2, 1, 0, -5), runs=4)
    yield Case("if_elif_return", _Elif, _with_numbers(0, 1, 2, 3), runs=4)
    yield Case("while_is_refused", _While, _with_numbers(2), refused="calls itself: a while loop")
    yield Case("for_is_unrolled", _Unrolled, normal((2, 3)))
    yield Case("graph_called_twice", _Called, normal((2, 3)))
    yield Case("several_outputs", _SeveralOutputs, normal((2, 3), (2, 4)))
    yield Case("assign_is_refused", _Assigns, normal((2, 3)), refused="shared weights never change")
