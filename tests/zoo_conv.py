"""Convolutions and what stands around them: the models whose weights the engine lays out anew."""

import onnx

from tests.zoo_entry import Entry, Rng, floats, net, node, port, positive, weights
from weightd.weights.arrays import Array

IMAGE = floats(x=(1, 64, 12, 12))
X = port("x", "n", 64, 12, 12)


def batch_norm(rng: Rng, of: str, channels: int) -> dict[str, Array]:
    """The four weights of a BatchNormalization whose input is named `of`."""
    return {
        f"{of}_scale": positive(rng, channels),
        f"{of}_shift": weights(rng, channels),
        f"{of}_mean": weights(rng, channels),
        f"{of}_var": positive(rng, channels),
    }


def conv_batch_norm(rng: Rng) -> onnx.ModelProto:
    """Three nodes that become one, with weights that no file has."""
    nodes = [
        node("Conv", "x w b", "c", kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", "c c_scale c_shift c_mean c_var", "d"),
        node("Relu", "d", "y"),
    ]
    tensors = {"w": weights(rng, 96, 64, 3, 3), "b": weights(rng, 96), **batch_norm(rng, "c", 96)}
    return net(nodes, tensors, [X], [port("y", "n", 96, 12, 12)])


def residual(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w0", "c0", kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", "c0 c0_scale c0_shift c0_mean c0_var", "n0"),
        node("Relu", "n0", "r0"),
        node("MaxPool", "r0", "p0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p0 w1", "c1", kernel_shape=[3, 3], pads=[1] * 4),
        node("BatchNormalization", "c1 c1_scale c1_shift c1_mean c1_var", "n1"),
        node("Add", "n1 p0", "s"),
        node("Relu", "s", "r1"),
        node("GlobalAveragePool", "r1", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w2 b2", "y", transB=1),
    ]
    tensors = {
        "w0": weights(rng, 32, 3, 3, 3),
        "w1": weights(rng, 32, 32, 3, 3),
        "w2": weights(rng, 100, 32),
        "b2": weights(rng, 100),
        **batch_norm(rng, "c0", 32),
        **batch_norm(rng, "c1", 32),
    }
    return net(nodes, tensors, [port("x", "n", 3, 16, 16)], [port("y", "n", 100)])


def depthwise(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w1", "a", kernel_shape=[3, 3], pads=[1] * 4, group=64),
        node("Clip", "a low high", "b"),
        node("Conv", "b w2", "y", kernel_shape=[1, 1]),
    ]
    tensors = {
        "w1": weights(rng, 64, 1, 3, 3),
        "w2": weights(rng, 96, 64, 1, 1),
        "low": -positive(rng),
        "high": positive(rng),
    }
    return net(nodes, tensors, [X], [port("y", "n", 96, 12, 12)])


def grouped(rng: Rng) -> onnx.ModelProto:
    nodes = [node("Conv", "x w b", "y", kernel_shape=[3, 3], group=4, strides=[2, 2])]
    tensors = {"w": weights(rng, 128, 16, 3, 3), "b": weights(rng, 128)}
    return net(nodes, tensors, [X], [port("y", "n", 128, 5, 5)])


def conv_1d(rng: Rng) -> onnx.ModelProto:
    nodes = [node("Conv", "x w b", "y", kernel_shape=[5], dilations=[2], pads=[4, 4])]
    tensors = {"w": weights(rng, 64, 40, 5), "b": weights(rng, 64)}
    return net(nodes, tensors, [port("x", "n", 40, "t")], [port("y", "n", 64, "t")])


def conv_3d(rng: Rng) -> onnx.ModelProto:
    nodes = [node("Conv", "x w b", "y", kernel_shape=[3, 3, 3], pads=[1] * 6)]
    tensors = {"w": weights(rng, 16, 8, 3, 3, 3), "b": weights(rng, 16)}
    return net(nodes, tensors, [port("x", "n", 8, 6, 6, 6)], [port("y", "n", 16, 6, 6, 6)])


def conv_transpose(rng: Rng) -> onnx.ModelProto:
    nodes = [node("ConvTranspose", "x w b", "y", kernel_shape=[2, 2], strides=[2, 2])]
    tensors = {"w": weights(rng, 64, 32, 2, 2), "b": weights(rng, 32)}
    return net(nodes, tensors, [X], [port("y", "n", 32, 24, 24)])


def norms(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w", "c", kernel_shape=[1, 1]),
        node("PRelu", "c slope", "p"),
        node("InstanceNormalization", "p i_scale i_shift", "i"),
        node("GroupNormalization", "i g_scale g_shift", "y", num_groups=4),
    ]
    tensors = {
        "w": weights(rng, 64, 64, 1, 1),
        "slope": weights(rng, 64, 1, 1),
        "i_scale": positive(rng, 64),
        "i_shift": weights(rng, 64),
        "g_scale": positive(rng, 64),
        "g_shift": weights(rng, 64),
    }
    return net(nodes, tensors, [X], [port("y", "n", 64, 12, 12)], opset=21)


ENTRIES = [
    Entry("conv_batch_norm", conv_batch_norm, IMAGE),
    Entry("residual", residual, floats(x=(2, 3, 16, 16))),
    Entry("depthwise", depthwise, IMAGE),
    Entry("grouped", grouped, IMAGE),
    Entry("conv_1d", conv_1d, floats(x=(2, 40, 17))),
    Entry("conv_3d", conv_3d, floats(x=(1, 8, 6, 6, 6))),
    Entry("conv_transpose", conv_transpose, IMAGE),
    Entry("norms", norms, IMAGE),
]
