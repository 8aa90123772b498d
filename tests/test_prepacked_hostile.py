"""Model files that were made to hurt whoever opens packed weights, and models that cannot be asked
anything: loaded right, or refused with a reason, and the daemon goes on."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import nets
from tests.daemons import Daemon, running_daemon
from tests.pairs import Pair, entry_named, paired
from tests.versions import built
from tests.zoo import answer, private_session, seeds
from weightd.backends import plain
from weightd.backends.threads import ONE
from weightd.errors import BadFileError, StagingError, UnknownModelError, WeightdError

MLP = entry_named("mlp")
# Past the end of any file, overlapping, and no numbers at all.
ENTRIES = [
    "MatMul+1+12345|1099511627776;4096;0",
    "MatMul+1+12345|0;9223372036854775807;0",
    "MatMul+1+12345|0;65536;0|1;65536;0",
    "MatMul+1+12345|-4096;65536;0",
    "nonsense",
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with running_daemon(answer_limit_s=0.5) as daemon:
        daemon.load_lenet()
        yield daemon


@pytest.fixture
def unharmed(shared: Daemon) -> Iterator[Daemon]:
    """That daemon, which afterwards must have the one model that it had."""
    yield shared
    status = shared.client.status()
    assert (status.pid, set(status.models), status.staging) == (shared.pid, {"lenet"}, ())


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(MLP) as pair:
        yield pair


def external(net: onnx.ModelProto, folder: Path, **changes: str) -> Path:
    """The model with its weights in another file, and these keys on each of them."""
    path = folder / "model.onnx"
    onnx.save_model(net, path, save_as_external_data=True, location="data", size_threshold=0)
    saved = onnx.load(path, load_external_data=False)
    for tensor in saved.graph.initializer:
        for key, value in changes.items():
            kept = [entry for entry in tensor.external_data if entry.key != key]
            tensor.ClearField("external_data")
            tensor.external_data.extend(kept)
            tensor.external_data.add(key=key, value=value)
    return nets.saved(saved, path)


# --- a file's own packed forms -----------------------------------------------------------


def test_packed_forms_that_a_file_brings_are_not_believed(
    unharmed: Daemon, mlp: Pair, tmp_path: Path
) -> None:
    entries = {f"prepacked_{number}": entry for number, entry in enumerate(ENTRIES)}
    unharmed.client.load("mlp", external(seeds(MLP)[0], tmp_path, **entries))
    try:
        with unharmed.attach_here("mlp") as here:
            assert here.engine == "prepacked"
            assert mlp.number_of(here.predict(mlp.feed)) == 1
    finally:
        unharmed.client.unload("mlp")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", ["mlp", "branches_then", "in_a_node"])
def test_nor_those_on_weights_inside_the_file_its_branches_and_its_nodes(
    name: str, entry: str
) -> None:
    with paired(entry_named(name)) as honest:
        net = seeds(entry_named(name))[0]
        for tensor in tensors_of(net):
            tensor.external_data.add(key="location", value="weights")
            tensor.external_data.add(key="prepacked_0", value=entry)
        with ExitStack() as resources:
            if name != "mlp":
                with pytest.raises(BadFileError, match="external"):
                    resources.enter_context(built(net))
                return
            version = resources.enter_context(built(net))
            session = honest.open(1)
            session.swap(version.map())
            assert honest.run(session) == 1
            session.close()


def tensors_of(net: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every weight of a model: the graph's, its inner graphs', its nodes' own."""
    found, graphs = [], [net.graph]
    while graphs:
        graph = graphs.pop()
        found += [*graph.initializer]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            graphs += [attribute.g] if attribute.HasField("g") else []
            found += [attribute.t] if attribute.HasField("t") else []
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "1099511627776"),
        ("offset", "-1"),
        ("length", "9223372036854775807"),
    ],
)
def test_weights_that_are_said_to_lie_past_the_end_of_their_file_are_refused(
    unharmed: Daemon, key: str, value: str, tmp_path: Path
) -> None:
    path = external(seeds(MLP)[0], tmp_path, **{key: value})
    with pytest.raises(BadFileError):
        unharmed.client.load("mlp", path)


def test_a_file_of_weights_that_is_cut_short_is_refused(unharmed: Daemon, tmp_path: Path) -> None:
    path = external(seeds(MLP)[0], tmp_path, prepacked_0=ENTRIES[0])
    os.truncate(tmp_path / "data", 4096)
    with pytest.raises(BadFileError):
        unharmed.client.load("mlp", path)


def test_a_publish_cannot_bring_packed_forms_either(
    unharmed: Daemon, mlp: Pair, tmp_path: Path
) -> None:
    unharmed.client.load("mlp", nets.saved(seeds(MLP)[0], tmp_path / "first.onnx"))
    try:
        with unharmed.attach_here("mlp") as here:
            unharmed.client.publish(
                "mlp", external(seeds(MLP)[1], tmp_path, prepacked_0=ENTRIES[0])
            )
            here.wait_for_version(2, timeout_s=10)
            assert mlp.number_of(here.predict(mlp.feed)) == 2
    finally:
        unharmed.client.unload("mlp")


# --- models that cannot be asked ---------------------------------------------------------


def endless() -> onnx.ModelProto:
    """A loop of 2^62 turns around the input."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go2"]),
            helper.make_node("Add", ["h", "h"], ["h2"]),
        ],
        "body",
        [
            nets.port("i", [], TensorProto.INT64),
            nets.port("go", [], TensorProto.BOOL),
            nets.port("h", ["n", 16]),
        ],
        [nets.port("go2", [], TensorProto.BOOL), nets.port("h2", ["n", 16])],
    )
    nodes = [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)]
    return nets.model(nodes, {"turns": np.array(2**62)})


@pytest.mark.parametrize("engine", ["", "plain"])
def test_a_model_that_does_not_end_is_refused_and_the_daemon_goes_on(
    unharmed: Daemon, engine: str, tmp_path: Path
) -> None:
    path = nets.saved(endless(), tmp_path / "endless.onnx")
    assert path.stat().st_size < 400
    with pytest.raises(StagingError, match=r"does not end.*no answer after 0\.5 s.*answer_limit_s"):
        unharmed.client.load("endless", path, engine=engine)
    with pytest.raises(UnknownModelError):
        unharmed.client.unload("endless")


def unaskable() -> onnx.ModelProto:
    """Wants a shape whose last size is 15, as no made-up one has."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    inputs = [nets.port("x", [3, 5]), nets.port("shape", [3], TensorProto.INT64)]
    outputs = [nets.port("y", ["a", "b", 4])]
    weights = {"w": np.random.default_rng(5).standard_normal((15, 4)).astype(np.float32)}
    return nets.model(nodes, weights, inputs=inputs, outputs=outputs)


def test_a_model_that_takes_none_of_the_made_up_inputs_runs_on_the_plain_engine_and_says_why() -> (
    None
):
    net = unaskable()
    feed = {
        "x": np.arange(15, dtype=np.float32).reshape(3, 5),
        "shape": np.array([1, 1, 15]),
    }
    with built(net) as version:
        stamp = version.map().manifest.stamp
        assert stamp["engine"] == "plain"
        assert "not prepacked: packed weights could not be verified" in stamp["note"]
        assert "none of the inputs that were tried will do" in stamp["note"]
        assert "answer" not in stamp
        session = plain.BACKEND.open(version.map(), threads=ONE)
        found, wanted = session.run(feed), answer(private_session(net), feed)
        np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5)
        session.close()


def test_packed_weights_of_a_model_that_cannot_be_asked_are_refused() -> None:
    with (
        pytest.raises(WeightdError, match="none of the inputs that were tried will do"),
        built(unaskable(), engine="prepacked"),
    ):
        pass
