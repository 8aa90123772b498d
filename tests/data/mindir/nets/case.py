"""One case: a network, inputs for it, and what is expected."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = Iterable[np.ndarray[Any, Any]]


class Case(NamedTuple):
    """net: makes the network, whose parameters are filled at random. inputs: makes its arguments.
    shapes: for arguments of open sizes, as mindspore.Tensor(shape=...) takes them; None: fixed.
    runs: how many inputs are tried. refused: a part of the message with which weightd refuses it,
    "" when it is to be translated. expected: what numpy says, for operators that MindSpore exports
    and cannot run on a CPU."""

    name: str
    net: Callable[[], Any]
    inputs: Callable[[np.random.Generator], Arrays]
    shapes: Sequence[Sequence[int | None] | None] = ()
    runs: int = 1
    refused: str = ""
    expected: Callable[..., Arrays] | None = None


def normal(*shapes: tuple[int, ...], dtype: str = "float32") -> Callable[..., Arrays]:
    """Arguments of these shapes, of normally distributed numbers."""
    return lambda rng: [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def whole(*shapes: tuple[int, ...], low: int = -9, high: int = 9, dtype: str = "int32") -> Any:
    """Arguments of these shapes, of whole numbers from low to high - 1."""
    return lambda rng: [rng.integers(low, high, shape).astype(dtype) for shape in shapes]


def uniform(*shapes: tuple[int, ...], low: float = 0.1, high: float = 3.0) -> Any:
    """Arguments of these shapes, of float32 numbers between low and high."""
    return lambda rng: [rng.uniform(low, high, shape).astype(np.float32) for shape in shapes]


def both(*makers: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """The arguments of several, one after another."""
    return lambda rng: [array for make in makers for array in make(rng)]


def given(*arrays: Any) -> Callable[..., Arrays]:
    """These very arguments."""
    return lambda rng: [np.asarray(array) for array in arrays]
