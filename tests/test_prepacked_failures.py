"""Whatever fails while packed weights are opened or switched, a whole version is in use, and what
happened is said."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import nets
from tests.daemons import running_daemon
from tests.helpers import wait_until
from tests.pairs import Pair, core_of, entry_named, paired
from tests.versions import built
from tests.zoo import seeds
from weightd.backends.prepacked.core import Core
from weightd.backends.threads import ONE
from weightd.errors import AnswerError, CompileError, PredictError, WeightdError
from weightd.ipc import linux


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(entry_named("mlp")) as pair:
        yield pair


# Made when they are raised: one that is kept keeps its traceback, and so what it was raised over.
Failure = Callable[[], Exception]
FAILURES: list[Failure] = [lambda: PredictError("no memory"), MemoryError]


def fails_once(monkeypatch: pytest.MonkeyPatch, failure: Failure) -> None:
    """The next check of a core does not come to a verdict."""
    honest, failures = Core.check, [failure]

    def check(core: Core) -> None:
        if failures:
            raise failures.pop()()
        honest(core)

    monkeypatch.setattr(Core, "check", check)


@pytest.mark.parametrize("failure", [*FAILURES, OSError])
def test_a_switch_whose_check_cannot_be_made_is_made_by_a_new_session(
    mlp: Pair, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = mlp.open_packed(1)
    assert mlp.run(session) == 1
    before = core_of(session)
    fails_once(monkeypatch, failure)
    session.swap(mlp.map(2))
    assert core_of(session) is not before
    assert mlp.run(session) == 2
    session.close()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_switch_that_cannot_be_made_at_all_leaves_the_old_version(
    mlp: Pair, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = mlp.open_packed(1)
    assert mlp.run(session) == 1

    def check(_: Core) -> None:
        raise failure()

    monkeypatch.setattr(Core, "check", check)
    with pytest.raises((WeightdError, MemoryError)):
        session.swap(mlp.map(2))
    assert mlp.run(session) == 1
    session.close()


@pytest.mark.parametrize("step", range(4))
def test_regions_step_back_whatever_stopped_them(
    mlp: Pair, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(mlp.map(1), threads=ONE)
    honest = linux.move_pages
    moves: list[int] = []

    def move_pages(address: int, nbytes: int, to: int) -> None:
        if len(moves) == step:
            raise MemoryError
        moves.append(address)
        honest(address, nbytes, to)

    monkeypatch.setattr(linux, "move_pages", move_pages)
    with pytest.raises(MemoryError):
        core.show(mlp.map(2))
    assert mlp.run(core) == 1
    monkeypatch.undo()
    core.show(mlp.map(2))
    assert mlp.run(core) == 2


def test_a_first_check_that_could_not_be_made_is_made_again(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_once(monkeypatch, FAILURES[0])
    session = mlp.open_packed(1)
    assert mlp.run(session) == 1
    assert session.engine == "prepacked"
    session.close()


def test_a_worker_whose_first_answer_is_wrong_says_so_and_is_helped(
    mlp: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_: Core) -> None:
        raise AnswerError("sabotaged")

    path = nets.saved(seeds(entry_named("mlp"))[0], tmp_path / "mlp.onnx")
    with running_daemon() as daemon:
        daemon.client.load("mlp", path)
        monkeypatch.setattr(Core, "check", check)
        with daemon.attach_here("mlp") as here:
            with pytest.raises(WeightdError, match="sabotaged"):
                here.predict(mlp.feed)
            here.wait_for_version(2, timeout_s=10)
            assert (here.engine, here.lag) == ("plain", "")
            np.testing.assert_allclose(
                here.predict(mlp.feed)["y"], mlp.answers[0]["y"], rtol=1e-3, atol=1e-5
            )
            wait_until(lambda: [w.engine for w in daemon.client.status().workers] == ["plain"])
        assert "fell-back mlp version 1" in daemon.log()


# --- models that cannot be packed, or not be asked ------------------------------------------


def random_numbers() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("RandomNormalLike", ["h"], ["n"]),
        helper.make_node("Add", ["h", "n"], ["y"]),
    ]
    return nets.model(nodes, {"w": np.ones((16, 16), np.float32)})


def only_signs() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Abs", ["h"], ["p"]),
        helper.make_node("Sign", ["p"], ["y"]),
    ]
    return nets.model(nodes, {"w": np.ones((16, 16), np.float32)})


def named_like_ours() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "weightd:plan"], ["y"])]
    return nets.model(nodes, {"weightd:plan": np.eye(16, dtype=np.float32)})


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (random_numbers(), "does not give the same answer twice"),
        (only_signs(), "the same answer for all inputs"),
        (named_like_ours(), "has a name as this engine gives them itself"),
    ],
)
def test_what_cannot_be_verified_runs_on_the_plain_engine_and_says_why(
    net: onnx.ModelProto, why: str
) -> None:
    with built(net) as version:
        stamp = version.map().manifest.stamp
    assert stamp["engine"] == "plain"
    assert why in stamp["note"]
    with pytest.raises(CompileError, match=why), built(net, engine="prepacked"):
        pass


def test_a_model_of_more_weights_than_a_process_has_mappings_is_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from weightd.backends.prepacked import packing

    monkeypatch.setattr(packing, "_MAPPINGS_EACH", 2**20)
    with built(seeds(entry_named("mlp"))[0]) as version:
        assert "vm.max_map_count is" in version.map().manifest.stamp["note"]


def test_pages_of_another_size_are_no_place_for_packed_weights(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weightd.backends.prepacked import plan

    monkeypatch.setattr(plan, "PAGE_NBYTES", 65536)
    with pytest.raises(CompileError, match="this machine has 4096"):
        plan.check_page_size()
