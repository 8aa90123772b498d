"""A zoo of small models, to hold what an engine answers against a private session, bit for bit.

Each family is a file: tests/zoo_dense.py, zoo_conv.py, zoo_sequence.py, zoo_quantised.py and
zoo_flow.py. What an entry is stands in zoo_entry.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from tests import zoo_conv, zoo_dense, zoo_flow, zoo_quantised, zoo_sequence
from tests.zoo_entry import Entry, Feed
from weightd.weights.arrays import Array

ZOO: list[Entry] = [
    *zoo_dense.ENTRIES,
    *zoo_conv.ENTRIES,
    *zoo_sequence.ENTRIES,
    *zoo_quantised.ENTRIES,
    *zoo_flow.ENTRIES,
]


def name_of(entry: Entry) -> str:
    """For pytest's ids."""
    return entry.name


def seeds(entry: Entry) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The same model with two sets of weights."""
    return entry.make(np.random.default_rng(1)), entry.make(np.random.default_rng(2))


def feed_of(entry: Entry) -> Feed:
    """The inputs to ask both."""
    return entry.feed(np.random.default_rng(3))


def private_session(net: onnx.ModelProto) -> Any:
    """onnxruntime alone, fully optimised, on one thread, so that sums have one order."""
    import weightd.backends.onnxruntime  # noqa: F401 - it keeps onnxruntime from reporting home
    import onnxruntime as ort  # isort: skip

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors; it warns of what the zoo has on purpose
    return ort.InferenceSession(
        net.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def answer(session: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs, by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def bits_of(outputs: Mapping[str, Array]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Two answers are the same exactly when this is: no tolerance, and a NaN equals itself."""
    return {
        name: (value.dtype.name, value.shape, value.tobytes()) for name, value in outputs.items()
    }
