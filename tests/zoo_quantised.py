"""Models of 8-bit and 4-bit weights: written as exporters write them, and in the engine's own."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.zoo_entry import (
    FLOAT,
    Entry,
    Rng,
    floats,
    microsoft,
    net,
    node,
    port,
    positive,
    weights,
    whole,
)
from weightd.weights.arrays import Array

X = port("x", "n", 256)
Y = port("y", "n", 256)
FEED = floats(x=(5, 256))
BLOCK = 32


def scale(rng: Rng, *shape: int) -> Array:
    """Of 8-bit numbers, so that what they stand for stays near 1."""
    made: Array = positive(rng, *shape) / np.float32(1000)
    return made


def dynamic(rng: Rng) -> onnx.ModelProto:
    """What onnxruntime's quantize_dynamic makes of a MatMul and an Add."""
    nodes = [
        node("DynamicQuantizeLinear", "x", "q qs qz"),
        node("MatMulInteger", "q w qz wz", "i"),
        node("Cast", "i", "f", to=FLOAT),
        node("Mul", "qs ws", "s"),
        node("Mul", "f s", "m"),
        node("Add", "m b", "y"),
    ]
    tensors = {
        "w": whole(rng, np.int8, 256, 256),
        "ws": scale(rng),
        "wz": np.array(0, np.int8),
        "b": weights(rng, 256),
    }
    return net(nodes, tensors, [X], [Y])


def dynamic_by_column(rng: Rng) -> onnx.ModelProto:
    """With a scale and a zero point for each column, and weights without a sign."""
    nodes = [microsoft("DynamicQuantizeMatMul", "x w ws wz b", "y")]
    tensors = {
        "w": whole(rng, np.uint8, 256, 256),
        "ws": scale(rng, 256),
        "wz": rng.integers(100, 156, 256, dtype=np.uint8),
        "b": weights(rng, 256),
    }
    return net(nodes, tensors, [X], [Y])


def dynamic_conv(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q qs qz"),
        node("ConvInteger", "q w qz wz", "i", kernel_shape=[3, 3], pads=[1] * 4),
        node("Cast", "i", "f", to=FLOAT),
        node("Mul", "qs ws", "s"),
        node("Mul", "f s", "y"),
    ]
    tensors = {
        "w": whole(rng, np.uint8, 64, 32, 3, 3),
        "ws": scale(rng),
        "wz": np.array(rng.integers(120, 136), np.uint8),
    }
    return net(nodes, tensors, [port("x", "n", 32, 9, 9)], [port("y", "n", 64, 9, 9)])


def dynamic_lstm(rng: Rng) -> onnx.ModelProto:
    nodes = [
        microsoft("DynamicQuantizeLSTM", "x w r b - - - - ws wz rs rz", "y", hidden_size=128),
    ]
    tensors = {
        "w": whole(rng, np.int8, 1, 64, 512),
        "r": whole(rng, np.int8, 1, 128, 512),
        "b": weights(rng, 1, 1024),
        "ws": scale(rng, 1),
        "wz": np.zeros(1, np.int8),
        "rs": scale(rng, 1),
        "rz": np.zeros(1, np.int8),
    }
    return net(nodes, tensors, [port("x", "t", "n", 64)], [port("y", "t", 1, "n", 128)])


def static_nodes(product: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A product of xd, wd and bd, between the numbers that make it one of integers."""
    return [
        node("QuantizeLinear", "x xs xz", "xq"),
        node("DequantizeLinear", "xq xs xz", "xd"),
        node("DequantizeLinear", "w ws wz", "wd", axis=0),
        node("DequantizeLinear", "b bs bz", "bd", axis=0),
        product,
        node("QuantizeLinear", "p ys yz", "pq"),
        node("DequantizeLinear", "pq ys yz", "y"),
    ]


def static_tensors(rng: Rng, count: int, *shape: int) -> dict[str, Array]:
    """Weights int8[count, *shape], with a scale for each of the count."""
    x_scale, w_scale = positive(rng) / np.float32(30), scale(rng, count)
    return {
        "w": whole(rng, np.int8, count, *shape),
        "ws": w_scale,
        "wz": np.zeros(count, np.int8),
        "b": rng.integers(-9999, 9999, count, dtype=np.int32),
        "bs": x_scale * w_scale,
        "bz": np.zeros(count, np.int32),
        "xs": x_scale,
        "xz": np.array(rng.integers(120, 136), np.uint8),
        "ys": positive(rng) / np.float32(30),
        "yz": np.array(rng.integers(120, 136), np.uint8),
    }


def static_conv(rng: Rng) -> onnx.ModelProto:
    product = node("Conv", "xd wd bd", "p", kernel_shape=[3, 3], pads=[1] * 4)
    ports = [port("x", "n", 32, 9, 9)], [port("y", "n", 64, 9, 9)]
    return net(static_nodes(product), static_tensors(rng, 64, 32, 3, 3), *ports, opset=21)


def static_gemm(rng: Rng) -> onnx.ModelProto:
    product = node("Gemm", "xd wd bd", "p", transB=1)
    return net(static_nodes(product), static_tensors(rng, 256, 256), [X], [Y], opset=21)


def static_matmul(rng: Rng) -> onnx.ModelProto:
    """One scale for all of w, and no bias."""
    product = node("MatMul", "xd wd", "p")
    nodes = [n for n in static_nodes(product) if n.output[0] != "bd"]
    tensors = static_tensors(rng, 256, 256) | {"ws": scale(rng), "wz": np.array(0, np.int8)}
    kept = {name: value for name, value in tensors.items() if not name.startswith("b")}
    return net(nodes, kept, [X], [Y], opset=21)


def packed_bits(bits: int, *, accuracy: int, has_zeros: bool) -> Callable[[Rng], onnx.ModelProto]:
    """MatMulNBits: several numbers in each byte, and a scale for each block of them."""
    blocks = 256 // BLOCK

    def make(rng: Rng) -> onnx.ModelProto:
        tensors = {
            "w": whole(rng, np.uint8, 256, blocks, BLOCK * bits // 8),
            "s": positive(rng, 256 * blocks) / np.float32(2 ** (bits + 2)),
        }
        if has_zeros:
            tensors["z"] = whole(rng, np.uint8, 256 * blocks * bits // 8)
        sizes = {"K": 256, "N": 256, "bits": bits, "block_size": BLOCK}
        nodes = [microsoft("MatMulNBits", " ".join(["x", *tensors]), "y", **sizes)]
        nodes[0].attribute.append(helper.make_attribute("accuracy_level", accuracy))
        return net(nodes, tensors, [X], [Y])

    return make


def int4(rng: Rng) -> onnx.ModelProto:
    """A tensor of ONNX's own 4-bit dtype, two numbers in each byte."""
    raw = whole(rng, np.uint8, 256 * 256 // 2).tobytes()
    nodes = [
        node("DequantizeLinear", "w s", "d", axis=0, block_size=BLOCK),
        node("MatMul", "x d", "y"),
    ]
    tensors: dict[str, Array | TensorProto] = {
        "w": helper.make_tensor("w", TensorProto.INT4, [256, 256], raw, raw=True),
        "s": positive(rng, 256 // BLOCK, 256) / np.float32(64),
    }
    return net(nodes, tensors, [X], [Y], opset=21)


ENTRIES = [
    Entry("dynamic_int8", dynamic, FEED),
    Entry("dynamic_int8_by_column", dynamic_by_column, FEED),
    Entry("dynamic_int8_conv", dynamic_conv, floats(x=(1, 32, 9, 9))),
    Entry("dynamic_int8_lstm", dynamic_lstm, floats(x=(5, 2, 64))),
    Entry("static_int8_conv", static_conv, floats(x=(1, 32, 9, 9))),
    Entry("static_int8_gemm", static_gemm, FEED),
    Entry("static_int8_matmul", static_matmul, FEED),
    Entry("nbits4", packed_bits(4, accuracy=0, has_zeros=False), FEED),
    Entry("nbits4_zeros", packed_bits(4, accuracy=0, has_zeros=True), FEED),
    Entry("nbits4_int8", packed_bits(4, accuracy=4, has_zeros=False), FEED),
    Entry("nbits4_int8_zeros", packed_bits(4, accuracy=4, has_zeros=True), FEED),
    Entry("nbits8", packed_bits(8, accuracy=4, has_zeros=False), FEED),
    Entry("int4", int4, FEED),
]
