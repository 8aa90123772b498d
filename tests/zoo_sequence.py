"""Recurrent models, and a block of attention: weights of many parts, and nodes that fuse."""

import numpy as np
import onnx

from tests.zoo_entry import (
    FLOAT,
    INT64,
    Entry,
    Feed,
    Rng,
    floats,
    net,
    node,
    port,
    positive,
    weights,
)
from weightd.weights.arrays import Array

FEED = floats(x=(5, 2, 128))
X = port("x", "t", "n", 128)
HEADS, WIDTH = 4, 128


def lstm(rng: Rng) -> onnx.ModelProto:
    tensors = {
        "w": weights(rng, 1, 1024, 128),
        "r": weights(rng, 1, 1024, 256),
        "b": weights(rng, 1, 2048),
    }
    nodes = [node("LSTM", "x w r b", "y", hidden_size=256)]
    return net(nodes, tensors, [X], [port("y", "t", 1, "n", 256)])


def lstm_both_ways(rng: Rng) -> onnx.ModelProto:
    tensors = {
        "w": weights(rng, 2, 256, 128),
        "r": weights(rng, 2, 256, 64),
        "b": weights(rng, 2, 512),
        "h": weights(rng, 2, 2, 64),
        "c": weights(rng, 2, 2, 64),
    }
    kind = {"hidden_size": 64, "direction": "bidirectional"}
    nodes = [node("LSTM", "x w r b - h c", "y yh yc", **kind)]
    outputs = [port("y", "t", 2, 2, 64), port("yh", 2, 2, 64), port("yc", 2, 2, 64)]
    return net(nodes, tensors, [port("x", "t", 2, 128)], outputs)


def gru(rng: Rng) -> onnx.ModelProto:
    tensors = {"w": weights(rng, 1, 768, 128), "r": weights(rng, 1, 768, 256)}
    nodes = [node("GRU", "x w r", "y", hidden_size=256)]
    return net(nodes, tensors, [X], [port("y", "t", 1, "n", 256)])


def gru_backwards(rng: Rng) -> onnx.ModelProto:
    tensors = {
        "w": weights(rng, 1, 192, 128),
        "r": weights(rng, 1, 192, 64),
        "b": weights(rng, 1, 384),
    }
    kind = {"hidden_size": 64, "direction": "reverse", "linear_before_reset": 1}
    return net([node("GRU", "x w r b", "y", **kind)], tensors, [X], [port("y", "t", 1, "n", 64)])


def rnn(rng: Rng) -> onnx.ModelProto:
    tensors = {
        "w": weights(rng, 1, 256, 128),
        "r": weights(rng, 1, 256, 256),
        "b": weights(rng, 1, 512),
    }
    nodes = [node("RNN", "x w r b", "y", hidden_size=256)]
    return net(nodes, tensors, [X], [port("y", "t", 1, "n", 256)])


def linear(of: str, to: str) -> list[onnx.NodeProto]:
    return [node("MatMul", f"{of} {to}_w", f"{to}_m"), node("Add", f"{to}_m {to}_b", to)]


def heads(of: str, to: str, order: list[int]) -> list[onnx.NodeProto]:
    return [
        *linear(of, f"{to}_lin"),
        node("Reshape", f"{to}_lin split", f"{to}_split"),
        node("Transpose", f"{to}_split", to, perm=order),
    ]


def norm(of: str, to: str) -> list[onnx.NodeProto]:
    """A LayerNormalization from before ONNX had one."""
    return [
        node("ReduceMean", of, f"{to}_1", axes=[-1]),
        node("Sub", f"{of} {to}_1", f"{to}_2"),
        node("Pow", f"{to}_2 exponent", f"{to}_3"),
        node("ReduceMean", f"{to}_3", f"{to}_4", axes=[-1]),
        node("Add", f"{to}_4 epsilon", f"{to}_5"),
        node("Sqrt", f"{to}_5", f"{to}_6"),
        node("Div", f"{to}_2 {to}_6", f"{to}_7"),
        node("Mul", f"{to}_7 {to}_s", f"{to}_8"),
        node("Add", f"{to}_8 {to}_b", to),
    ]


def gelu(of: str, to: str) -> list[onnx.NodeProto]:
    return [
        node("Div", f"{of} root_2", f"{to}_1"),
        node("Erf", f"{to}_1", f"{to}_2"),
        node("Add", f"{to}_2 unit", f"{to}_3"),
        node("Mul", f"{of} {to}_3", f"{to}_4"),
        node("Mul", f"{to}_4 half", to),
    ]


def attention_nodes() -> list[onnx.NodeProto]:
    """As exporters wrote BERT; to the node, what onnxruntime fuses into Attention."""
    return [
        *norm("x", "n1"),
        *heads("n1", "q", [0, 2, 1, 3]),
        *heads("n1", "k", [0, 2, 3, 1]),
        *heads("n1", "v", [0, 2, 1, 3]),
        node("MatMul", "q k", "qk"),
        node("Div", "qk root", "scaled"),
        node("Unsqueeze", "mask", "mask3", axes=[1]),
        node("Unsqueeze", "mask3", "mask4", axes=[2]),
        node("Cast", "mask4", "seen", to=FLOAT),
        node("Sub", "unit seen", "unseen"),
        node("Mul", "unseen far", "bias"),
        node("Add", "scaled bias", "biased"),
        node("Softmax", "biased", "p", axis=3),
        node("MatMul", "p v", "pv"),
        node("Transpose", "pv", "pvt", perm=[0, 2, 1, 3]),
        node("Reshape", "pvt join", "context"),
        *linear("context", "o"),
        node("Add", "o n1", "skip"),
        *norm("skip", "n2"),
        *linear("n2", "up"),
        *gelu("up", "g"),
        *linear("g", "down"),
        node("Add", "down n2", "y"),
    ]


def numbers(**values: float) -> dict[str, Array]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


def linear_weights(rng: Rng, fan_in: int, fan_out: int, *names: str) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for name in names:
        tensors |= {f"{name}_w": weights(rng, fan_in, fan_out), f"{name}_b": weights(rng, fan_out)}
    return tensors


def norm_weights(rng: Rng, *names: str) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for name in names:
        tensors |= {f"{name}_s": positive(rng, WIDTH), f"{name}_b": weights(rng, WIDTH)}
    return tensors


def attention(rng: Rng) -> onnx.ModelProto:
    tensors = {
        **linear_weights(rng, WIDTH, WIDTH, "q_lin", "k_lin", "v_lin", "o"),
        **linear_weights(rng, WIDTH, 4 * WIDTH, "up"),
        **linear_weights(rng, 4 * WIDTH, WIDTH, "down"),
        **norm_weights(rng, "n1", "n2"),
        **numbers(root=np.sqrt(WIDTH / HEADS), unit=1, far=-1e4, exponent=2, epsilon=1e-5),
        **numbers(root_2=np.sqrt(2), half=0.5),
        "split": np.array([0, 0, HEADS, WIDTH // HEADS]),
        "join": np.array([0, 0, WIDTH]),
    }
    inputs = [port("x", "n", "t", WIDTH), port("mask", "n", "t", dtype=INT64)]
    outputs = [port("y", "n", "t", WIDTH)]
    return net(attention_nodes(), tensors, inputs, outputs, opset=12)


def feed_forward(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("LayerNormalization", "x n1_s n1_b", "n", axis=-1),
        *linear("n", "up"),
        node("Gelu", "up", "g"),
        *linear("g", "down"),
        node("Add", "down x", "skip"),
        node("LayerNormalization", "skip n2_s n2_b", "y", axis=-1),
    ]
    tensors = {
        **norm_weights(rng, "n1", "n2"),
        **linear_weights(rng, WIDTH, 4 * WIDTH, "up"),
        **linear_weights(rng, 4 * WIDTH, WIDTH, "down"),
    }
    ports = [port("x", "n", "t", WIDTH)], [port("y", "n", "t", WIDTH)]
    return net(nodes, tensors, *ports, opset=20)


def sentences(rng: Rng) -> Feed:
    mask = np.ones((2, 12), np.int64)
    mask[1, 7:] = 0
    return {**floats(x=(2, 12, WIDTH))(rng), "mask": mask}


ENTRIES = [
    Entry("lstm", lstm, FEED),
    Entry("lstm_both_ways", lstm_both_ways, FEED),
    Entry("gru", gru, FEED),
    Entry("gru_backwards", gru_backwards, FEED),
    Entry("rnn", rnn, FEED),
    Entry("attention", attention, sentences),
    Entry("feed_forward", feed_forward, floats(x=(2, 12, WIDTH))),
]
