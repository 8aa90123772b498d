"""A model to measure with, and what is wanted of weightd with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bars:
    """Limits; None where a model has none. memory_of_4_mib: the sum of four workers' PSS.
    private_mib: a worker's Private_Dirty beyond a private session's less its weights.
    api: Model.predict, times a private session's; runner: a ModelParallelRunner's predictions a
    second, of as many private processes'.
    first_answer, publish: times of the floor's; forked: to open it, times of the floor's opening.
    """

    predict: float | None = 1.05
    private_mib: float | None = 30.0
    memory_of_4_mib: float | None = None
    first_answer: float | None = None
    forked: float | None = None
    pause_s: float | None = None
    publish: float | None = None
    api: float | None = 1.5
    runner: float | None = 0.95


@dataclass(frozen=True)
class Model:
    """name: as --model has it; title: for people. file: of a model that is there already, else
    write() makes one. int_below: the inputs that are integers are less."""

    name: str
    title: str
    write: Callable[[Path], None] | None = None
    file: Path | None = None
    int_below: int = 2
    bars: Bars = Bars()

    def file_in(self, folder: Path) -> Path:
        """The .onnx file, made in `folder` if it must be."""
        if self.write is None:
            assert self.file is not None, "a model is a file, or can write one"
            return self.file
        target = folder / f"{self.name}.onnx"
        self.write(target)
        return target
