"""A graph's inputs and outputs as a worker sees them, and the check of what it brings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from weightd.errors import BadInputError
from weightd.weights.arrays import Array, numpy_dtype
from weightd.weights.entries import Port


class TensorInfo(NamedTuple):
    """An input or output: numpy's dtype (ml_dtypes' for bfloat16 and float8), and a shape in which
    a dimension is a size, a symbol's name, or None when unknown."""

    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


def infos_of(ports: tuple[Port, ...]) -> dict[str, TensorInfo]:
    """Ports by name."""
    return {port.name: TensorInfo(numpy_dtype(port.dtype), port.shape) for port in ports}


def checked_inputs(inputs: Mapping[str, Any], ports: tuple[Port, ...]) -> dict[str, Array]:
    """The inputs as contiguous arrays; BadInputError when a name, dtype or shape is not the
    graph's. Nothing is converted in silence. Equal symbols need equal sizes in all inputs."""
    names = {port.name for port in ports}
    if inputs.keys() != names:
        raise BadInputError(
            f"predict wants the inputs {', '.join(sorted(names)) or '(none)'}; it got "
            f"{', '.join(sorted(map(str, inputs))) or 'none'}"
        )
    symbols: dict[str, int] = {}
    return {port.name: _checked_input(inputs[port.name], port, symbols) for port in ports}


def _checked_input(value: Any, port: Port, symbols: dict[str, int]) -> Array:
    if not isinstance(value, np.ndarray):
        raise BadInputError(
            f"input {port.name!r} is a {type(value).__name__}; give a numpy array of {port.dtype}"
        )
    if value.dtype != numpy_dtype(port.dtype):
        raise BadInputError(
            f"input {port.name!r} is {value.dtype}, the model takes {port.dtype}; "
            f"convert it with .astype({port.dtype!r})"
        )
    if not _fits(value.shape, port.shape, symbols):
        raise BadInputError(
            f"input {port.name!r} has shape {value.shape}, the model takes "
            f"({', '.join('?' if d is None else str(d) for d in port.shape)})"
        )
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def _fits(
    shape: tuple[int, ...], wanted: tuple[int | str | None, ...], symbols: dict[str, int]
) -> bool:
    """Whether a shape matches. `symbols` has the sizes that symbols were given so far."""
    if len(shape) != len(wanted):
        return False
    for size, want in zip(shape, wanted, strict=True):
        if want is not None and size != (
            want if isinstance(want, int) else symbols.setdefault(want, size)
        ):
            return False
    return True
