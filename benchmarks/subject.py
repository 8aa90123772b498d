"""A model that a daemon holds, ready to be measured: its files, its inputs, its engine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import weightd
from weightd.backends.ports import TensorInfo
from weightd.benchmarks.daemon import Place
from weightd.benchmarks.model import Model
from weightd.benchmarks.weights import write_other_weights
from weightd.errors import BadInputError
from weightd.weights.arrays import Array

BATCHES = (1, 8)


@dataclass(frozen=True)
class Subject:
    """file: the model, version 1. other: other weights for it. nbytes: of its weights.

    engine, note: what runs it, and why it is not what one would expect, or ''. inputs: by batch;
    the one batch is 0 where the model's shapes leave no choice.
    """

    model: Model
    place: Place
    file: Path
    other: Path
    nbytes: int
    engine: str
    note: str
    inputs: dict[int, dict[str, Array]]

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def title(self) -> str:
        return self.model.title

    @property
    def client(self) -> weightd.Client:
        return self.place.client

    @property
    def smallest(self) -> dict[str, Array]:
        """The inputs of the smallest batch."""
        return self.inputs[min(self.inputs)]

    def attach_here(self) -> weightd.Attachment:
        """Attach this very process; the caller closes it."""
        return _attach_here(self.place, self.name)


def prepare(model: Model, place: Place, engine: str) -> Subject:
    """Make the files, and load the model by this engine ('': the daemon's own)."""
    file = model.file_in(place.folder)
    other = place.folder / "other.safetensors"
    nbytes = write_other_weights(file, other)
    place.client.load(model.name, file, engine=engine)
    with _attach_here(place, model.name) as attachment:
        infos = attachment.inputs
        engine, note = attachment.engine, attachment.engine_note
    inputs = inputs_for(infos, int_below=model.int_below)
    return Subject(model, place, file, other, nbytes, engine, note, inputs)


def _attach_here(place: Place, name: str) -> weightd.Attachment:
    place.client.allow(name, place.client.current_pid())
    return weightd.attach(name, runtime_dir=place.client.runtime_dir)


def inputs_for(infos: dict[str, TensorInfo], *, int_below: int) -> dict[int, dict[str, Array]]:
    """Random inputs for these ports, by batch; batch 0 where the shapes leave no choice."""
    has_choice = any(not isinstance(size, int) for info in infos.values() for size in info.shape)
    return {
        batch: {name: _input(name, info, batch, int_below) for name, info in infos.items()}
        for batch in (BATCHES if has_choice else (0,))
    }


def _input(name: str, info: TensorInfo, batch: int, int_below: int) -> Array:
    """Random values; a dimension without a size is as large as the batch."""
    rng = np.random.default_rng(1)
    shape = tuple(size if isinstance(size, int) else batch for size in info.shape)
    values: Array
    match info.dtype.kind:
        case "f" | "V":  # numpy says V of ml_dtypes' bfloat16
            values = rng.standard_normal(shape)
        case "i" | "u":
            values = rng.integers(0, int_below, shape)
        case "b":
            values = rng.integers(0, 2, shape)
        case _:
            raise BadInputError(f"input {name!r} is {info.dtype}; the benchmark has no such values")
    return values.astype(info.dtype)
