"""Models whose weights stand in unusual places: in branches and loops, among the inputs and the
outputs, in a node or a function; and those with nearly none."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.zoo_entry import BOOL, INT64, Entry, Feed, Rng, floats, net, node, port, weights
from weightd.weights.arrays import Array

X = port("x", "n", 128)
Y = port("y", "n", 128)
FEED = floats(x=(5, 128))


def body(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **tensors: Array,
) -> onnx.GraphProto:
    """A graph inside a node, with weights of its own."""
    own = [numpy_helper.from_array(value, key) for key, value in tensors.items()]
    made: onnx.GraphProto = helper.make_graph(list(nodes), name, inputs, outputs, own)
    return made


def branch(rng: Rng, name: str) -> onnx.GraphProto:
    """Uses a weight of its own, one that both branches use, and one that only it uses."""
    nodes = [
        node("MatMul", "x shared", f"a_{name}"),
        node("MatMul", f"a_{name} w_{name}", f"b_{name}"),
        node("MatMul", f"b_{name} own_{name}", f"c_{name}"),
    ]
    own = {f"own_{name}": weights(rng, 128, 128)}
    return body(name, nodes, [], [port(f"c_{name}", "n", 128)], **own)


def branches(rng: Rng) -> onnx.ModelProto:
    pair = {"then_branch": branch(rng, "t"), "else_branch": branch(rng, "e")}
    nodes = [
        node("If", "c", "i", **pair),
        node("MatMul", "i shared", "j"),
        node("Add", "j i", "y"),
    ]
    tensors = {name: weights(rng, 128, 128) for name in ("shared", "w_t", "w_e")}
    return net(nodes, tensors, [X, port("c", dtype=BOOL)], [Y])


def either(value: bool) -> Feed:
    return {**FEED(np.random.default_rng(value)), "c": np.array(value)}


def step(rng: Rng, nodes: Sequence[onnx.NodeProto], **tensors: Array) -> onnx.GraphProto:
    """A loop's body from the state h to h2, which goes on for ever and emits each h2."""
    ends = [node("Identity", "go", "go2"), node("Identity", "h2", "each")]
    inputs = [port("i", dtype=INT64), port("go", dtype=BOOL), port("h", "n", 128)]
    outputs = [port("go2", dtype=BOOL), port("h2", "n", 128), port("each", "n", 128)]
    own = {"bias": weights(rng, 128), **tensors}
    return body("step", [*nodes, *ends], inputs, outputs, **own)


def loop(rng: Rng) -> onnx.ModelProto:
    inner = [
        node("MatMul", "h w", "m"),
        node("MatMul", "m own", "o"),
        node("Add", "o bias", "a"),
        node("Tanh", "a", "h2"),
    ]
    nodes = [
        node("Loop", "times yes x", "y all", body=step(rng, inner, own=weights(rng, 128, 128)))
    ]
    outputs = [Y, port("all", 3, "n", 128)]
    return net(
        nodes,
        {"w": weights(rng, 128, 128), "times": np.array(3), "yes": np.array(True)},
        [X],
        outputs,
    )


def branches_in_a_loop(rng: Rng) -> onnx.ModelProto:
    """Each of two branches runs once, two graphs down."""

    def inside(name: str) -> onnx.GraphProto:
        own = {f"own_{name}": weights(rng, 128, 128)}
        nodes = [
            node("MatMul", f"h own_{name}", f"m_{name}"),
            node("MatMul", f"m_{name} w", f"o_{name}"),
        ]
        return body(name, nodes, [], [port(f"o_{name}", "n", 128)], **own)

    inner = [
        node("Cast", "i", "odd", to=BOOL),
        node("If", "odd", "o", then_branch=inside("t"), else_branch=inside("e")),
        node("Add", "o bias", "h2"),
    ]
    nodes = [node("Loop", "times yes x", "y all", body=step(rng, inner))]
    outputs = [Y, port("all", 2, "n", 128)]
    return net(
        nodes,
        {"w": weights(rng, 128, 128), "times": np.array(2), "yes": np.array(True)},
        [X],
        outputs,
    )


def scan(rng: Rng) -> onnx.ModelProto:
    inner = [
        node("MatMul", "xt w", "a"),
        node("MatMul", "h own", "b"),
        node("Add", "a b", "c"),
        node("Tanh", "c", "h2"),
        node("Identity", "h2", "each"),
    ]
    inputs = [port("h", "n", 128), port("xt", "n", 64)]
    outputs = [port("h2", "n", 128), port("each", "n", 128)]
    graph = body("step", inner, inputs, outputs, own=weights(rng, 128, 128))
    nodes = [node("Scan", "h0 x", "y all", body=graph, num_scan_inputs=1)]
    ports = [port("h0", "n", 128), port("x", "t", "n", 64)]
    return net(nodes, {"w": weights(rng, 64, 128)}, ports, [Y, port("all", "t", "n", 128)])


def in_a_function(rng: Rng) -> onnx.ModelProto:
    """A function of the model's own, called twice with other weights."""
    parts = [node("MatMul", "a b", "m"), node("Tanh", "m", "c")]
    opsets = [helper.make_opsetid("", 17)]
    nodes = [
        node("Layer", "x w1", "h", domain="zoo"),
        node("Layer", "h w2", "y", domain="zoo"),
    ]
    tensors = {"w1": weights(rng, 128, 128), "w2": weights(rng, 128, 128)}
    made = net(nodes, tensors, [X], [Y])
    made.functions.append(helper.make_function("zoo", "Layer", ["a", "b"], ["c"], parts, opsets))
    made.opset_import.append(helper.make_opsetid("zoo", 1))
    return made


def in_a_node(rng: Rng) -> onnx.ModelProto:
    """The weight is the attribute of a Constant, as some exporters write all of them."""
    value = numpy_helper.from_array(weights(rng, 128, 128), "value")
    nodes = [node("Constant", "", "w", value=value), node("MatMul", "x w", "y")]
    return net(nodes, {}, [X], [Y])


def also_an_output(rng: Rng) -> onnx.ModelProto:
    outputs = [Y, port("w", 128, 128)]
    return net([node("MatMul", "x w", "y")], {"w": weights(rng, 128, 128)}, [X], outputs)


def overridable(rng: Rng) -> onnx.ModelProto:
    """The weight stands among the inputs, as the default of one that nobody has to give."""
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    tensors = {"w": weights(rng, 128, 128), "b": weights(rng, 128)}
    return net(nodes, tensors, [X, port("w", 128, 128)], [Y])


def scalar_and_empty(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("Mul", "x scalar", "m"),
        node("Concat", "m empty", "c", axis=0),
        node("MatMul", "c w", "y"),
    ]
    tensors = {
        "scalar": np.array(rng.standard_normal(), np.float32),
        "empty": np.empty((0, 128), np.float32),
        "w": weights(rng, 128, 128),
    }
    return net(nodes, tensors, [X], [Y])


def only_a_scalar(rng: Rng) -> onnx.ModelProto:
    tensors = {"scalar": np.array(rng.standard_normal(), np.float32)}
    return net([node("Mul", "x scalar", "y")], tensors, [X], [Y])


def whole_numbers(rng: Rng) -> onnx.ModelProto:
    """An order of the columns, and a mask."""
    nodes = [
        node("Gather", "x order", "g", axis=1),
        node("Where", "mask g zero", "m"),
        node("MatMul", "m w", "y"),
    ]
    tensors = {
        "order": rng.permutation(128),
        "mask": rng.integers(0, 2, 128).astype(bool),
        "zero": np.array(0, np.float32),
        "w": weights(rng, 128, 128),
    }
    return net(nodes, tensors, [X], [Y])


def no_weights(rng: Rng) -> onnx.ModelProto:
    del rng
    return net([node("Relu", "x", "r"), node("Softmax", "r", "y")], {}, [X], [Y])


def many_ports(rng: Rng) -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Gather", "table i", "b"),
        node("Add", "a b", "y"),
        node("Concat", "y x", "c", axis=1),
        node("MatMul", "c v", "z"),
        node("ArgMax", "z", "best", axis=1, keepdims=0),
    ]
    tensors = {
        "w": weights(rng, 128, 128),
        "v": weights(rng, 256, 64),
        "table": weights(rng, 500, 128),
    }
    outputs = [Y, port("z", "n", 64), port("best", "n", dtype=TensorProto.INT64)]
    return net(nodes, tensors, [X, port("i", "n", dtype=INT64)], outputs)


def pairs(rng: Rng) -> Feed:
    return {**FEED(rng), "i": rng.integers(0, 500, 5)}


ENTRIES = [
    Entry("branches_then", branches, lambda rng: either(True)),
    Entry("branches_else", branches, lambda rng: either(False)),
    Entry("loop", loop, FEED),
    Entry("branches_in_a_loop", branches_in_a_loop, FEED),
    Entry("scan", scan, floats(h0=(2, 128), x=(6, 2, 64))),
    Entry("in_a_function", in_a_function, FEED),
    Entry("in_a_node", in_a_node, FEED),
    Entry("also_an_output", also_an_output, FEED),
    Entry("overridable", overridable, FEED),
    Entry("scalar_and_empty", scalar_and_empty, FEED),
    Entry("only_a_scalar", only_a_scalar, FEED),
    Entry("whole_numbers", whole_numbers, FEED),
    Entry("no_weights", no_weights, FEED, has_weights=False),
    Entry("many_ports", many_ports, pairs),
]
