"""The shape of MobileNetV2: depthwise convolutions, and Clip as its ReLU6; 14 MiB."""

from pathlib import Path

import numpy as np

from weightd.benchmarks.convolution import CLASSES, IMAGE, Convolutions, classified
from weightd.benchmarks.graph import Graph

_FIRST, _LAST = 32, 1280
_STAGES = (  # widen, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def write(target: Path) -> None:
    graph = Graph()
    graph.constant("zero", np.array(0, np.float32))
    graph.constant("six", np.array(6, np.float32))
    convolutions = Convolutions(graph)
    x = _relu6(graph, convolutions.add("x", 3, _FIRST, kernel=3, stride=2))
    channels = _FIRST
    for widen, out, blocks, stride in _STAGES:
        for block in range(blocks):
            sizes = channels, channels * widen, out
            x = _block(graph, convolutions, x, sizes, 1 if block else stride)
            channels = out
    x = _relu6(graph, convolutions.add(x, channels, _LAST, kernel=1))
    classified(graph, x, _LAST)
    graph.write(target, "x", ("batch", 3, IMAGE, IMAGE), ("batch", CLASSES))


def _block(
    graph: Graph, convolutions: Convolutions, x: str, sizes: tuple[int, int, int], stride: int
) -> str:
    """sizes: the channels that come in, those in the middle, those that go out."""
    channels, wide, out = sizes
    inner = x
    if wide != channels:
        inner = _relu6(graph, convolutions.add(x, channels, wide, kernel=1))
    inner = convolutions.add(inner, wide, wide, kernel=3, stride=stride, group=wide)
    inner = convolutions.add(_relu6(graph, inner), wide, out, kernel=1)
    return graph.op("Add", inner, x) if stride == 1 and channels == out else inner


def _relu6(graph: Graph, x: str) -> str:
    return graph.op("Clip", x, "zero", "six")
