"""A plain function as a network, and the decorator that makes it a case."""

from collections.abc import Callable, Sequence
from typing import Any

from mindspore import nn

from tests.data.mindir.nets.case import Arrays, Case


class Function(nn.Cell):
    """A network without parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def construct(self, *inputs: Any) -> Any:
        return self.function(*inputs)


class Cases(list[Case]):
    """The cases of a family, in the order in which they are added."""

    def of(
        self,
        inputs: Callable[..., Arrays],
        *,
        shapes: Sequence[Sequence[int | None] | None] = (),
        runs: int = 1,
        refused: str = "",
        expected: Callable[..., Arrays] | None = None,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Makes the decorated function a case, under its own name."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            name = function.__name__.strip("_")
            self.append(
                Case(name, lambda: Function(function), inputs, shapes, runs, refused, expected)
            )
            return function

        return add
