"""What a name of a MindIR graph stands for while the graph is translated."""

from dataclasses import dataclass
from typing import Self

from weightd.weights.mindir.graph import Graph
from weightd.weights.mindir.proto import Constant, TensorType


@dataclass(frozen=True)
class Tensor:
    """A value of the ONNX graph. A size of -1 is open; shape None: not even the rank is known."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    @classmethod
    def of(cls, name: str, declared: TensorType) -> Self:
        return cls(name, declared.dtype, declared.shape)


@dataclass(frozen=True)
class Closure:
    """A graph and the first of its arguments."""

    graph: Graph
    arguments: "tuple[Value, ...]"


@dataclass(frozen=True)
class Switch:
    """One of two closures, chosen when the model runs."""

    condition: Tensor
    if_true: "Value"
    if_false: "Value"


@dataclass(frozen=True)
class Untranslated:
    """One of several results that has no counterpart; refused when it is used. why: for people."""

    why: str


Value = Tensor | Constant | Closure | Switch | Untranslated | tuple["Value", ...]
