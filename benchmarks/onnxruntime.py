"""onnxruntime without weightd, as applications have it: what to compare with."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would write to the user's cache folder

import onnxruntime as ort

from weightd.ipc.segment import new_memfd
from weightd.weights.arrays import Array


class PrivateSession:
    """A session with a copy of the weights of its own: all optimisations, packed, one thread."""

    def __init__(self, model: Path) -> None:
        self._session = ort.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        answers = self._session.run(self._outputs, inputs)
        return dict(zip(self._outputs, answers, strict=True))


def pack(model: Path) -> None:
    """Have onnxruntime optimise and pre-pack a model and write down all of it, into memory."""
    with ExitStack() as stack:
        graph_fd, data_fd = (new_memfd(f"weightd-bench:{what}") for what in ("graph", "data"))
        stack.callback(os.close, graph_fd)
        stack.callback(os.close, data_fd)
        options = _options()
        options.optimized_model_filepath = f"/proc/self/fd/{graph_fd}"
        for key, value in (
            ("optimized_model_external_initializers_file_name", str(data_fd)),
            ("optimized_model_external_initializers_min_size_in_bytes", "64"),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(f"session.{key}", value)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options
