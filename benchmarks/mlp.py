"""Six dense layers, half of them Gemm with a transposed matrix, as PyTorch writes them, and half
MatMul and Add. 384 MiB at a width of 4096."""

from pathlib import Path

from weightd.benchmarks.graph import Graph

LAYERS = 6


def write(target: Path, *, width: int) -> None:
    graph = Graph()
    x = "x"
    for layer in range(LAYERS):
        x = _transposed(graph, x, layer, width) if layer % 2 else _plain(graph, x, layer, width)
        if layer < LAYERS - 1:
            x = graph.op("Relu", x)
    graph.write(target, "x", ("batch", width), ("batch", width))


def _plain(graph: Graph, x: str, layer: int, width: int) -> str:
    return graph.dense(x, f"fc{layer}", width, width)


def _transposed(graph: Graph, x: str, layer: int, width: int) -> str:
    weight = graph.random(f"fc{layer}.weight", width, width, scale=width**-0.5)
    return graph.op("Gemm", x, weight, graph.random(f"fc{layer}.bias", width), transB=1)
