"""The shape of BERT-base: 12 layers of attention, 768 wide, over 128 tokens; 415 MiB."""

from pathlib import Path

import numpy as np
from onnx import TensorProto

from weightd.benchmarks.graph import Graph

VOCABULARY = 30_522
_TOKENS, _POSITIONS = 128, 512
_LAYERS, _HEADS, _WIDTH, _INNER = 12, 12, 768, 3072


def write(target: Path) -> None:
    graph = Graph()
    heads = graph.constant("heads", np.array([0, 0, _HEADS, _WIDTH // _HEADS]))
    joined = graph.constant("joined", np.array([0, 0, _WIDTH]))
    for name, value in (("sqrt_d", 8.0), ("sqrt_2", 2**0.5), ("one", 1.0), ("half", 0.5)):
        graph.constant(name, np.array(value, np.float32))
    x = _embedded(graph)
    for layer in range(_LAYERS):
        name = f"layer{layer}"
        attended = graph.dense(
            _attention(graph, x, name, heads, joined), f"{name}.o", _WIDTH, _WIDTH
        )
        x = _normed(graph, graph.op("Add", attended, x), f"{name}.norm1")
        inner = _gelu(graph, graph.dense(x, f"{name}.inner", _WIDTH, _INNER))
        outer = graph.dense(inner, f"{name}.outer", _INNER, _WIDTH)
        x = _normed(graph, graph.op("Add", outer, x), f"{name}.norm2")
    graph.write(
        target, "ids", ("batch", _TOKENS), ("batch", _TOKENS, _WIDTH), dtype=TensorProto.INT64
    )


def _embedded(graph: Graph) -> str:
    words = graph.random("words", VOCABULARY, _WIDTH, scale=0.02)
    places = graph.random("places", _POSITIONS, _WIDTH, scale=0.02)
    numbers = graph.constant("numbers", np.arange(_TOKENS)[np.newaxis])
    both = graph.op("Add", graph.op("Gather", words, "ids"), graph.op("Gather", places, numbers))
    return _normed(graph, both, "norm")


def _attention(graph: Graph, x: str, name: str, heads: str, joined: str) -> str:
    def part(kind: str, perm: tuple[int, ...]) -> str:
        dense = graph.dense(x, f"{name}.{kind}", _WIDTH, _WIDTH)
        return graph.op("Transpose", graph.op("Reshape", dense, heads), perm=perm)

    query, key, value = part("q", (0, 2, 1, 3)), part("k", (0, 2, 3, 1)), part("v", (0, 2, 1, 3))
    scores = graph.op("Div", graph.op("MatMul", query, key), "sqrt_d")
    context = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    return graph.op("Reshape", graph.op("Transpose", context, perm=(0, 2, 1, 3)), joined)


def _normed(graph: Graph, x: str, name: str) -> str:
    weight = graph.random(f"{name}.weight", _WIDTH, mean=1.0)
    bias = graph.random(f"{name}.bias", _WIDTH)
    return graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-12)


def _gelu(graph: Graph, x: str) -> str:
    erf = graph.op("Erf", graph.op("Div", x, "sqrt_2"))
    return graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, "one")), "half")
