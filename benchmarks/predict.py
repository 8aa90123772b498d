"""Predict: an attachment against a bare onnxruntime session of the same model in this process.

Both use one thread. The bare session has every optimisation and pre-packing, as it comes.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import weightd
from benchmarks.comparison import Comparison, in_turns, seconds_of
from benchmarks.daemon import running_daemon
from weightd.weights.arrays import Array

LENET = Path(weightd.__file__).parent / "data" / "lenet5.onnx"
WIDTH = 1024
LAYERS = 6
ROUNDS = 60
CALLS_S = 0.02  # how long one round calls each side
BAR = 1.05
_US = 1e6


def compare() -> list[Comparison]:
    with tempfile.TemporaryDirectory(prefix="weightd-bench-") as folder, running_daemon() as client:
        mlp = Path(folder) / "mlp.onnx"
        mlp.write_bytes(_mlp())
        return [
            *_of_model(client, "LeNet-5", LENET, "x", {1: (1, 1, 32, 32)}),
            *_of_model(client, "MLP 6x1024", mlp, "x", {1: (1, WIDTH), 8: (8, WIDTH)}),
        ]


def _of_model(
    client: weightd.Client, name: str, path: Path, port: str, shapes: Mapping[int, tuple[int, ...]]
) -> list[Comparison]:
    model = name.replace(" ", "-")
    client.load(model, path)
    client.allow(model, client.current_pid())
    bare = _bare_session(path)
    with weightd.attach(model, runtime_dir=client.runtime_dir) as attachment:
        return [
            _compare(f"predict, {name}, batch {batch}", attachment, bare, {port: _input(shape)})
            for batch, shape in shapes.items()
        ]


def _compare(
    what: str,
    attachment: weightd.Attachment,
    bare: ort.InferenceSession,
    inputs: dict[str, Array],
) -> Comparison:
    _check_same_answer(attachment, bare, inputs)
    calls = max(1, int(CALLS_S / seconds_of(lambda: bare.run(None, inputs))))
    ours, floor = in_turns(
        lambda: _mean_us(lambda: attachment.predict(inputs), calls),
        lambda: _mean_us(lambda: bare.run(None, inputs), calls),
        rounds=ROUNDS,
        warmup=3,
    )
    return Comparison(what, "µs", "bare session", ours, floor, BAR)


def _check_same_answer(
    attachment: weightd.Attachment, bare: ort.InferenceSession, inputs: dict[str, Array]
) -> None:
    expected = dict(zip(attachment.outputs, bare.run(None, inputs), strict=True))
    for name, output in attachment.predict(inputs).items():
        np.testing.assert_allclose(output, expected[name], rtol=1e-3, atol=1e-3)


def _mean_us(call: Callable[[], object], calls: int) -> float:
    def repeat() -> None:
        for _ in range(calls):
            call()

    return seconds_of(repeat) / calls * _US


def _bare_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _input(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _mlp() -> bytes:
    """LAYERS times MatMul, Add and Relu on WIDTH numbers, of any batch."""
    rng = np.random.default_rng(0)
    weights, nodes, last = [], [], "x"
    for layer in range(LAYERS):
        square = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) * np.float32(WIDTH**-0.5)
        weights += [
            numpy_helper.from_array(square, f"w{layer}"),
            numpy_helper.from_array(np.zeros(WIDTH, np.float32), f"b{layer}"),
        ]
        nodes += [
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"]),
            helper.make_node("Relu", [f"a{layer}"], [f"y{layer}"]),
        ]
        last = f"y{layer}"
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", last)
    )
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    raw: bytes = model.SerializeToString()
    return raw
