"""Engines: what a worker answers over shared memory is what a private session answers."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import nets
from tests.daemons import LENET, Daemon, running_daemon
from weightd.backends import hollow
from weightd.errors import BadInputError, CompileError, PredictError, WeightdError
from weightd.weights.arrays import Array

RNG = np.random.default_rng(3)
X = RNG.standard_normal((3, 16)).astype(np.float32)


def random(*shape: int) -> Array:
    found: Array = RNG.standard_normal(shape).astype(np.float32)
    return found


def dense() -> onnx.ModelProto:
    net: onnx.ModelProto = nets.dense()
    for tensor in net.graph.initializer:
        tensor.raw_data = random(*tensor.dims).tobytes()
    return net


def many_tensors() -> onnx.ModelProto:
    """100 layers: more tensors than any list of a fixed size."""
    names = [f"h{n}" for n in range(100)]
    nodes = [
        helper.make_node("Add", [before, f"b{n}"], [name])
        for n, (before, name) in enumerate(zip(["x", *names], [*names[:-1], "y"], strict=False))
    ]
    return nets.model(nodes, {f"b{n}": random(16) for n in range(100)})


def half() -> onnx.ModelProto:
    weights = {"w": random(16, 16).astype(np.float16)}
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x16", "w"], ["h"]),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    return nets.model(nodes, weights)


def quantized() -> onnx.ModelProto:
    weights: dict[str, Array] = {
        "w": RNG.integers(-100, 100, (16, 16)).astype(np.int8),
        "scale": np.array(0.01, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("MatMulInteger", ["q", "w", "qz", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["qs", "scale"], ["s"]),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    return nets.model(nodes, weights)


def brain_floats() -> onnx.ModelProto:
    values = random(16, 16).astype(ml_dtypes.bfloat16)
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [16, 16], values.tobytes(), raw=True)
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w32"], ["y"]),
    ]
    return nets.model(nodes, [tensor])


def branches() -> onnx.ModelProto:
    """If, whose branches use weights of the graph around them and of their own."""

    def branch(name: str, weight: str) -> onnx.GraphProto:
        own = numpy_helper.from_array(random(16), f"own_{name}")
        nodes = [
            helper.make_node("MatMul", ["x", weight], [f"h_{name}"]),
            helper.make_node("Add", [f"h_{name}", f"own_{name}"], [f"y_{name}"]),
        ]
        return helper.make_graph(nodes, name, [], [nets.port(f"y_{name}", ["n", 16])], [own])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["which"]),
        helper.make_node(
            "If", ["which"], ["y"], then_branch=branch("a", "wa"), else_branch=branch("b", "wb")
        ),
    ]
    weights = {"wa": random(16, 16), "wb": random(16, 16), "zero": np.array(0, np.float32)}
    return nets.model(nodes, weights)


def weights_as_outputs() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Identity", ["w"], ["z"])]
    outputs = [nets.port("y", ["n", 16]), nets.port("z", [64, 16])]
    inputs = [nets.port("x", [64, 16])]
    return nets.model(nodes, {"w": random(64, 16)}, inputs=inputs, outputs=outputs)


def no_weights() -> onnx.ModelProto:
    return nets.model([helper.make_node("Relu", ["x"], ["y"])])


EXACT = [many_tensors, no_weights]
# A private session packs its matrices first and then adds up in another order.
CLOSE = [dense, branches, half, quantized, brain_floats]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for all nets."""
    with running_daemon() as daemon:
        daemon.client.status()  # opens what the client keeps open
        yield daemon


def answers(
    daemon: Daemon, path: Path, inputs: dict[str, Array], **options: Any
) -> dict[str, Array]:
    name = f"{path.stem}.{len(daemon.client.status().models)}"
    daemon.client.load(name, path, **options)
    with daemon.attach_here(name) as here:
        return here.predict(inputs)


@pytest.mark.parametrize("make", [*EXACT, *CLOSE])
def test_the_plain_engine_answers_as_a_private_session_does(
    shared: Daemon, make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path = nets.saved(make(), tmp_path / f"{make.__name__}.onnx")
    for inputs in ({"x": X}, {"x": -X[:1]}):
        expected, found = nets.privately(path, inputs), answers(shared, path, inputs)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            if make in EXACT:
                assert found[name].tobytes() == value.tobytes()
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [dense, many_tensors, brain_floats])
def test_the_reference_engine_answers_close_to_a_private_session(
    shared: Daemon, make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path = nets.saved(make(), tmp_path / f"{make.__name__}.onnx")
    found = answers(shared, path, {"x": X}, engine="reference")
    np.testing.assert_allclose(
        found["y"], nets.privately(path, {"x": X})["y"], rtol=1e-4, atol=1e-4
    )


def test_lenet_answers_alike_by_both_engines_and_privately(shared: Daemon) -> None:
    inputs = {"x": random(1, 1, 32, 32)}
    (expected,) = nets.privately(LENET, inputs).values()
    for engine in ("plain", "reference"):
        (found,) = answers(shared, LENET, inputs, engine=engine).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_external_data_in_the_models_folder_is_loaded(shared: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    (tmp_path / "data").mkdir()
    net = dense()
    expected = nets.privately(nets.saved(net, tmp_path / "inside.onnx"), {"x": X})
    onnx.save_model(net, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= 16 * 16 * 4
    np.testing.assert_allclose(answers(shared, path, {"x": X})["y"], expected["y"], rtol=1e-5)


def test_an_answer_is_the_callers_own_memory_even_when_it_is_a_weight(
    shared: Daemon, tmp_path: Path
) -> None:
    path = nets.saved(weights_as_outputs(), tmp_path / "w.onnx")
    shared.client.load("w", path)
    with shared.attach_here("w") as here:
        inputs = {"x": np.zeros((64, 16), np.float32)}
        first = here.predict(inputs)
        copy = first["z"].copy()
        first["z"][:] = 0
        first["y"][:] = 0
        assert here.predict(inputs)["z"].tobytes() == copy.tobytes()
    assert not first["z"].any()


def test_a_graph_that_no_engine_knows_is_refused(shared: Daemon, tmp_path: Path) -> None:
    net = nets.model([helper.make_node("Frobnicate", ["x"], ["y"])])
    path = nets.saved(net, tmp_path / "unknown.onnx")
    for engine in ("plain", "reference"):
        with pytest.raises(CompileError, match="Frobnicate"):
            shared.client.load("unknown", path, engine=engine)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "wants the inputs x; it got none"),
    ({"x": X, "z": X}, "wants the inputs x"),
    ({"x": X.astype(np.float64)}, r"float64.*\.astype\('float32'\)"),
    ({"x": X.tolist()}, "is a list"),
    ({"x": X[0]}, r"has shape \(16,\)"),
    ({"x": X[:, :8]}, r"has shape \(3, 8\)"),
]


def test_inputs_that_do_not_fit_are_refused_by_name_and_the_next_prediction_works(
    shared: Daemon, tmp_path: Path
) -> None:
    shared.client.load("checked", nets.saved(dense(), tmp_path / "checked.onnx"))
    with shared.attach_here("checked") as here:
        for inputs, text in WRONG:
            with pytest.raises(BadInputError, match=text):
                here.predict(inputs)
        assert here.predict({"x": X[::-1]})["y"].shape == (3, 16)


def test_an_engine_that_fails_says_so_and_goes_on(shared: Daemon, tmp_path: Path) -> None:
    inputs = [nets.port("x", ["n", 16]), nets.port("i", [1], TensorProto.INT64)]
    net = nets.model([helper.make_node("Gather", ["x", "i"], ["y"])], inputs=inputs)
    net.graph.output[0].CopyFrom(nets.port("y", [1, 16]))
    for engine in ("plain", "reference"):
        name = f"gather-{engine}"
        shared.client.load(name, nets.saved(net, tmp_path / "g.onnx"), engine=engine)
        with shared.attach_here(name) as here:
            with pytest.raises(PredictError):
                here.predict({"x": X, "i": np.array([99])})
            assert here.predict({"x": X, "i": np.array([1])})["y"].tolist() == [X[1].tolist()]


def test_a_worker_that_cannot_open_the_new_version_stays_says_why_and_follows_the_next(
    shared: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.client.load("stays", nets.saved(nets.dense(1.0), tmp_path / "a.onnx"), engine="plain")
    with shared.attach_here("stays") as here:
        before = here.predict({"x": X})["y"].tobytes()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        monkeypatch.setattr(hollow, "OTHER_FOLDERS", ())
        shared.client.publish("stays", nets.saved(nets.dense(2.0), tmp_path / "b.onnx"))
        with pytest.raises(WeightdError, match=r"still runs version 1, not 2.*gone"):
            here.wait_for_version(2, timeout_s=1)
        assert here.predict({"x": X})["y"].tobytes() == before
        monkeypatch.undo()
        shared.client.publish("stays", nets.saved(nets.dense(3.0), tmp_path / "c.onnx"))
        here.wait_for_version(3, timeout_s=10)
        assert here.lag == ""
