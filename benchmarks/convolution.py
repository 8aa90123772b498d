"""A convolution and the batch normalisation after it, as networks are before they are optimised."""

from weightd.benchmarks.graph import Graph

IMAGE = 224
CLASSES = 1000


class Convolutions:
    """Adds them to a graph, numbered."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._count = 0

    def add(
        self, x: str, channels: int, out: int, *, kernel: int, stride: int = 1, group: int = 1
    ) -> str:
        graph, name = self._graph, f"conv{self._count}"
        self._count += 1
        inputs = channels // group
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = graph.random(f"{name}.weight", out, inputs, kernel, kernel, scale=scale)
        x = graph.op(
            "Conv",
            x,
            weight,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=group,
        )
        norm = (
            graph.random(f"{name}.norm.weight", out, mean=1.0, scale=0.1),
            graph.random(f"{name}.norm.bias", out),
            graph.random(f"{name}.norm.mean", out),
            graph.random(f"{name}.norm.variance", out, mean=1.0),
        )
        return graph.op("BatchNormalization", x, *norm, epsilon=1e-5)


def classified(graph: Graph, x: str, channels: int) -> str:
    """The average over the image, and a dense layer with a number for each class."""
    x = graph.op("Flatten", graph.op("GlobalAveragePool", x), axis=1)
    weight = graph.random("classes.weight", CLASSES, channels)
    return graph.op("Gemm", x, weight, graph.random("classes.bias", CLASSES), transB=1)
