"""Three sets of weights for LeNet-5, and what a private session answers with each: from an answer
one can tell which weights it is of, bit by bit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from weightd.demo.digits import (
    EARLY_WEIGHTS,
    FINAL_WEIGHTS,
    INPUT,
    LENET,
    OUTPUT,
    images_and_labels,
    tensors_of,
)
from weightd.demo.onnxruntime import PrivateSession
from weightd.weights.arrays import Array

MODEL = "lenet"


@dataclass(frozen=True)
class Known:
    """A file with an input and its three answers; the model, and files of weights by index."""

    answers: Path
    model: Path
    weights: tuple[Path, ...]


def prepared(folder: Path) -> Known:
    """Work all of it out, and write it into `folder`. The model's own weights have index 0."""
    early, final = tensors_of(EARLY_WEIGHTS), tensors_of(FINAL_WEIGHTS)
    between = {name: (early[name] + final[name]) / np.float32(2) for name in final}
    image = images_and_labels()[0][0]
    models = [_model(folder / f"lenet{n}.onnx", t) for n, t in enumerate((early, final, between))]
    answers = [PrivateSession(model).predict({INPUT: image}, OUTPUT) for model in models]
    file = folder / "answers.npz"
    np.savez(file, image=image, answers=np.stack(answers))
    return Known(file, models[0], tuple(models))


def _model(target: Path, tensors: dict[str, Array]) -> Path:
    """The graph of LeNet-5 with these weights."""
    model = onnx.load_model(LENET)
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))
    onnx.save_model(model, target)
    return target
