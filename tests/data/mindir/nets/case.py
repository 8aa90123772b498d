"""One case: a network, inputs for it, and what is expected."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = Iterable[np.ndarray[Any, Any]]


class Case(NamedTuple):
    """net: makes the network, whose parameters are filled at random. inputs: makes its arguments.
    shapes: for arguments of open sizes, as mindspore.Tensor(shape=...) takes them; None: fixed.
    runs: how many inputs are tried. refused: a part of the message with which weightd refuses it,
    "" when it is to be translated."""

    name: str
    net: Callable[[], Any]
    inputs: Callable[[np.random.Generator], Arrays]
    shapes: Sequence[Sequence[int | None] | None] = ()
    runs: int = 1
    refused: str = ""


def normal(*shapes: tuple[int, ...], dtype: str = "float32") -> Callable[..., Arrays]:
    """Arguments of these shapes, of normally distributed numbers."""
    return lambda rng: [rng.standard_normal(shape).astype(dtype) for shape in shapes]
