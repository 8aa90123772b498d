"""LeNet-5 as the demo uses it: its images as inputs, and its early weights as a model file."""

import os
from pathlib import Path

import numpy as np
import onnx

import weightd
from weightd.weights.arrays import Array
from weightd.weights.source import open_source

DATA = Path(weightd.__file__).parent / "data"
LENET = DATA / "lenet5.onnx"
EARLY_WEIGHTS = DATA / "lenet5_early.safetensors"
FINAL_WEIGHTS = DATA / "lenet5.safetensors"
INPUT, OUTPUT = "x", "12"
EARLY_RIGHT, FINAL_RIGHT, IMAGES = 274, 350, 360  # as data/README.md has them


def images_and_labels() -> tuple[Array, Array]:
    """The inputs, one batch of one image each, and the right answers."""
    with np.load(DATA / "digits.npz", allow_pickle=False) as digits:
        pixels = digits["images"].astype(np.float32)
        labels = digits["labels"]
    inputs = (pixels / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    return inputs[:, np.newaxis, np.newaxis], labels


def write_early_model(target: Path) -> None:
    """The graph of lenet5.onnx with the early weights."""
    model = onnx.load_model(LENET)
    weights = tensors_of(EARLY_WEIGHTS)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights.pop(tensor.name), tensor.name))
    assert not weights, f"{LENET.name} lacks {', '.join(weights)}"
    onnx.save_model(model, target)


def tensors_of(path: Path) -> dict[str, Array]:
    """All of a file's tensors, in private memory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with open_source(fd, file_name=path.name) as source:
            tensors = {s.name: np.empty(s.shape, s.dtype) for s in source.tensors.values()}
            for name, tensor in tensors.items():
                source.read_into(name, tensor.data.cast("B"))
            return tensors
    finally:
        os.close(fd)
