"""Private onnxruntime sessions, as applications have them without weightd: to compare with."""

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write to the user's cache folder

import onnxruntime as ort

from weightd.weights.arrays import Array


class PrivateSession:
    """One session with a private copy of the weights, fully optimised, pre-packed, one thread."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(self, inputs: dict[str, Array], output: str) -> Array:
        answer: Array = self._session.run([output], inputs)[0]
        return answer
