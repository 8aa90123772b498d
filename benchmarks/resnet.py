"""The shape of ResNet-50, its batch normalisations not yet folded; 98 MiB."""

from pathlib import Path

from weightd.benchmarks.convolution import CLASSES, IMAGE, Convolutions, classified
from weightd.benchmarks.graph import Graph

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width, blocks
_WIDEN = 4


def write(target: Path) -> None:
    graph = Graph()
    convolutions = Convolutions(graph)
    x = graph.op("Relu", convolutions.add("x", 3, 64, kernel=7, stride=2))
    x = graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (width, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _block(graph, convolutions, x, (channels, width), stride)
            channels = width * _WIDEN
    classified(graph, x, channels)
    graph.write(target, "x", ("batch", 3, IMAGE, IMAGE), ("batch", CLASSES))


def _block(
    graph: Graph, convolutions: Convolutions, x: str, sizes: tuple[int, int], stride: int
) -> str:
    channels, width = sizes
    out = width * _WIDEN
    inner = graph.op("Relu", convolutions.add(x, channels, width, kernel=1))
    inner = graph.op("Relu", convolutions.add(inner, width, width, kernel=3, stride=stride))
    inner = convolutions.add(inner, width, out, kernel=1)
    if channels != out:
        x = convolutions.add(x, channels, out, kernel=1, stride=stride)
    return graph.op("Relu", graph.op("Add", inner, x))
