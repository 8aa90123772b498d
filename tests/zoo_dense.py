"""Models of matrix products and tables: every way in which a graph can name a weight."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.zoo_entry import INT64, Entry, Rng, floats, ids, net, node, port, weights

X = port("x", "n", 256)
Y = port("y", "n", 256)
FEED = floats(x=(5, 256))


def matmul(rng: Rng) -> onnx.ModelProto:
    return net([node("MatMul", "x w", "y")], {"w": weights(rng, 256, 256)}, [X], [Y])


def mlp(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Gemm", "x w1 b1", "a", transB=1),
        node("Relu", "a", "b"),
        node("Gemm", "b w2 b2", "y"),
    ]
    tensors = {
        "w1": weights(rng, 384, 256),
        "b1": weights(rng, 384),
        "w2": weights(rng, 384, 256),
        "b2": weights(rng, 256),
    }
    return net(nodes, tensors, [X], [Y])


def gemm_options(rng: Rng) -> onnx.ModelProto:
    nodes = [node("Gemm", "x w c", "y", alpha=0.7, beta=1.3, transA=1, transB=1)]
    tensors = {"w": weights(rng, 192, 256), "c": weights(rng, 1, 192)}
    return net(nodes, tensors, [port("x", 256, "n")], [port("y", "n", 192)])


def odd_sizes(rng: Rng) -> onnx.ModelProto:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    tensors = {"w": weights(rng, 100, 33), "b": weights(rng, 33)}
    return net(nodes, tensors, [port("x", "n", 100)], [port("y", "n", 33)])


def batched(rng: Rng) -> onnx.ModelProto:
    ports = [port("x", 4, "n", 128)], [port("y", 4, "n", 96)]
    return net([node("MatMul", "x w", "y")], {"w": weights(rng, 4, 128, 96)}, *ports)


def used_twice(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Relu", "a", "b"),
        node("MatMul", "b w", "y"),
    ]
    return net(nodes, {"w": weights(rng, 256, 256)}, [X], [Y])


def left_operand(rng: Rng) -> onnx.ModelProto:
    ports = [port("x", 256, "n")], [port("y", 192, "n")]
    return net([node("MatMul", "w x", "y")], {"w": weights(rng, 192, 256)}, *ports)


def same_content(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w1", "a"),
        node("Tanh", "a", "b"),
        node("MatMul", "b w2", "y"),
    ]
    twin = weights(rng, 256, 256)
    return net(nodes, {"w1": twin, "w2": twin.copy()}, [X], [Y])


def same_content_once(rng: Rng) -> onnx.ModelProto:
    """Twins with one of the two seeds, and strangers with the other."""
    are_twins = not rng.integers(2)
    made = same_content(rng)
    if not are_twins:
        made.graph.initializer[1].raw_data = weights(rng, 256, 256).tobytes()
    return made


def transposed(rng: Rng) -> onnx.ModelProto:
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    return net(nodes, {"w": weights(rng, 256, 256)}, [X], [Y])


def folded(rng: Rng) -> onnx.ModelProto:
    """What the engine keeps is no weight of the file: it is computed out of two."""
    nodes = [node("MatMul", "u v", "w"), node("MatMul", "x w", "y")]
    tensors = {"u": weights(rng, 256, 16), "v": weights(rng, 16, 256)}
    return net(nodes, tensors, [X], [Y])


def einsum(rng: Rng) -> onnx.ModelProto:
    nodes = [node("Einsum", "x w", "y", equation="bni,hio->bhno")]
    ports = [port("x", "b", "n", 128)], [port("y", "b", 4, "n", 32)]
    return net(nodes, {"w": weights(rng, 4, 128, 32)}, *ports)


def double(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Cast", "x", "d", to=TensorProto.DOUBLE),
        node("MatMul", "d w", "h"),
        node("Cast", "h", "y", to=TensorProto.FLOAT),
    ]
    return net(nodes, {"w": weights(rng, 256, 256).astype(np.float64)}, [X], [Y])


def half(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("MatMul", "h w", "i"),
        node("Add", "i b", "j"),
        node("Cast", "j", "y", to=TensorProto.FLOAT),
    ]
    tensors = {"w": weights(rng, 256, 256), "b": weights(rng, 256)}
    return net(nodes, {n: w.astype(np.float16) for n, w in tensors.items()}, [X], [Y])


def brain_floats(rng: Rng) -> onnx.ModelProto:
    raw = weights(rng, 256, 256).astype(ml_dtypes.bfloat16).tobytes()
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [256, 256], raw, raw=True)
    nodes = [node("Cast", "w", "f", to=TensorProto.FLOAT), node("MatMul", "x f", "y")]
    return net(nodes, {"w": tensor}, [X], [Y])


def tied(rng: Rng) -> onnx.ModelProto:
    """A table that is read by row, and multiplied with as the head."""
    nodes = [node("Gather", "table i", "e"), node("Gemm", "e table", "y", transB=1)]
    ports = [port("i", "n", dtype=INT64)], [port("y", "n", 1000)]
    return net(nodes, {"table": weights(rng, 1000, 128)}, *ports)


def big_table(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Gather", "table i", "e"),
        node("ReduceMean", "e", "m", axes=[1], keepdims=0),
        node("MatMul", "m w", "y"),
    ]
    tensors = {"table": weights(rng, 8000, 32), "w": weights(rng, 32, 16)}
    return net(nodes, tensors, [port("i", "n", "t", dtype=INT64)], [port("y", "n", 16)])


ENTRIES = [
    Entry("matmul", matmul, FEED),
    Entry("mlp", mlp, FEED),
    Entry("gemm_options", gemm_options, floats(x=(256, 5))),
    Entry("odd_sizes", odd_sizes, floats(x=(3, 100))),
    Entry("batched", batched, floats(x=(4, 7, 128))),
    Entry("used_twice", used_twice, FEED),
    Entry("left_operand", left_operand, floats(x=(256, 5))),
    Entry("same_content", same_content, FEED),
    Entry("same_content_once", same_content_once, FEED),
    Entry("transposed", transposed, FEED),
    Entry("folded", folded, FEED),
    Entry("einsum", einsum, floats(x=(2, 5, 128))),
    Entry("double", double, FEED),
    Entry("half", half, FEED),
    Entry("brain_floats", brain_floats, FEED),
    Entry("tied", tied, ids("i", 1000, 4)),
    Entry("big_table", big_table, ids("i", 8000, 3, 9)),
]
