"""ModelParallelRunner by MindSpore Lite's contract, and what its workers really have."""

import inspect
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.helpers import wait_until
from tests.nets import dense, model, port, saved
from tests.runners import Asking, context, opened
from weightd import Context, DataType, Model, ModelParallelRunner, ModelType, Tensor

pytestmark = pytest.mark.usefixtures("own_runtime")

LENET = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"
X = np.arange(32, dtype=np.float32).reshape(2, 16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(2), tmp_path / "model.mindir")


@pytest.fixture(scope="module")
def built() -> Iterator[ModelParallelRunner]:
    """One for all tests: y = x @ w + b, all 2."""
    with (
        tempfile.TemporaryDirectory(prefix="wd-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("WEIGHTD_RUNTIME_DIR", f"{folder}/run")
        with opened(saved(dense(2), Path(folder) / "m.mindir")) as runner:
            yield runner


def answer(runner: ModelParallelRunner, x: Any = X) -> Any:
    return runner.predict([Tensor(x)])[0].get_data_to_numpy()


# --- by contract -------------------------------------------------------------------------------


def test_the_methods_take_what_upstreams_take() -> None:
    nothing = inspect.Parameter.empty
    for name, wanted in {
        "build_from_file": {"model_path": nothing, "context": None},
        "predict": {"inputs": nothing, "outputs": None},
        "get_inputs": {},
    }.items():
        parameters = inspect.signature(getattr(ModelParallelRunner(), name)).parameters
        assert {each.name: each.default for each in parameters.values()} == wanted


def test_a_runner_says_its_path(file: Path) -> None:
    assert str(ModelParallelRunner()) == "model_path: ."
    with opened(file) as runner:
        assert str(runner) == f"model_path: {file}."


def configured(**parallel: Any) -> Context:
    found = context()
    for name, value in parallel.items():
        setattr(found.parallel, name, value)
    return found


WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (1, 1, TypeError, "model_path must be str, but got"),
    (
        "none.mindir",
        1,
        RuntimeError,
        "ModelParallelRunner's build from file failed, model_path does not exist!",
    ),
    (str(LENET), 1, TypeError, "context must be Context, but got"),
    (
        str(LENET),
        lambda: configured(config_info={"weightd": {"pids": "all"}}),
        RuntimeError,
        "update configuration failed! Error is ",
    ),
    (
        __file__,
        context,
        RuntimeError,
        "ModelParallelRunner's build from file failed! Error is ",
    ),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_of_the_faults_of_a_build_upstreams_first_is_told(case: int) -> None:
    path, wanted, kind, text = WRONG[case]
    with ModelParallelRunner() as runner, pytest.raises(kind) as caught:
        runner.build_from_file(path, wanted() if callable(wanted) else wanted)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


def test_a_configuration_that_cannot_be_read_is_an_error(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text("nothing\n")
    wanted = configured(config_path=str(path))
    with ModelParallelRunner() as runner:
        with pytest.raises(RuntimeError, match="load configuration failed! Error is "):
            runner.build_from_file(str(file), wanted)
        path.unlink()
        with pytest.raises(RuntimeError, match="build from file failed, config_path does not ex"):
            runner.build_from_file(str(file), wanted)


def test_a_runner_is_built_once(built: ModelParallelRunner, file: Path) -> None:
    with pytest.raises(RuntimeError, match=r"build from file failed! Error is .*called Build!"):
        built.build_from_file(str(file))
    assert np.allclose(answer(built), 2 * X.sum(1, keepdims=True) + 2)


def test_without_a_context_it_is_on_the_cpu(file: Path) -> None:
    with ModelParallelRunner() as runner:
        runner.build_from_file(str(file))
        assert answer(runner).shape == (2, 16)


def test_inputs_are_tensors_to_be_filled(built: ModelParallelRunner) -> None:
    assert ModelParallelRunner().get_inputs() == []
    (tensor,) = built.get_inputs()
    assert (tensor.name, tensor.shape, tensor.dtype) == ("x", [-1, 16], DataType.FLOAT32)
    tensor.shape = [2, 16]
    tensor.set_data_from_numpy(X)
    (output,) = built.predict((tensor,))
    assert (output.name, output.shape) == ("y", [2, 16])


def test_outputs_that_are_brought_are_filled(built: ModelParallelRunner) -> None:
    room = np.zeros((2, 16), np.float32)
    (output,) = built.predict([Tensor(X)], [Tensor(room)])
    assert np.allclose(room, 2 * X.sum(1, keepdims=True) + 2)
    assert output.get_data_to_numpy().ctypes.data == room.ctypes.data


ASKED: list[tuple[Any, Any, type[Exception], str]] = [
    (X, 1, TypeError, "inputs must be list or tuple, but got"),
    ([X], 1, TypeError, "inputs element must be Tensor, but got"),
    ([Tensor(X), "x"], 1, TypeError, "inputs element must be Tensor, but got"),
    ([], 1, TypeError, "outputs must be list, but got"),
    ([], [X], TypeError, "outputs element must be Tensor, but got"),
    ([], None, RuntimeError, "predict failed!"),
    ([Tensor(X)] * 2, None, RuntimeError, "predict failed!"),
    ([Tensor()], None, RuntimeError, "predict failed!"),
    ([Tensor(X.astype(np.int32))], None, RuntimeError, "predict failed!"),
    ([Tensor(X.reshape(16, 2))], None, RuntimeError, "predict failed!"),
    ([Tensor(X)], [Tensor(np.zeros(3, np.float32))], RuntimeError, "predict failed!"),
    ([Tensor(X)], [Tensor()] * 2, RuntimeError, "predict failed!"),
]


@pytest.mark.parametrize("case", range(len(ASKED)))
def test_of_the_faults_of_a_prediction_upstreams_first_is_told(
    built: ModelParallelRunner, case: int
) -> None:
    inputs, outputs, kind, text = ASKED[case]
    with pytest.raises(kind) as caught:
        built.predict(inputs, outputs)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


def test_what_is_not_built_or_closed_predicts_nothing(file: Path) -> None:
    closed = opened(file)
    closed.close()
    closed.close()
    for runner in (closed, ModelParallelRunner()):
        assert runner.get_inputs() == []
        with pytest.raises(RuntimeError, match="predict failed!"):
            runner.predict([])


# --- many threads ---


def test_many_threads_get_their_own_answers(built: ModelParallelRunner) -> None:
    def ask(number: int) -> None:
        x = np.full((1, 16), number, np.float32)
        for _ in range(25):
            assert (answer(built, x) == 32 * number + 2).all()

    asking = [Asking(partial(ask, number)) for number in range(16)]
    assert [each.join() for each in asking] == [None] * 16


# --- shared with others ------------------------------------------------------------------------


def test_a_runner_uses_what_a_model_shares_and_follows_its_updates(
    tmp_path: Path, file: Path
) -> None:
    (tmp_path / "names").write_text("b\n")
    shared = {
        "weightd": {"pids": str(os.getpid()), "daemon": "never"},
        "ascend_context": {"variable_weights_file": str(tmp_path / "names")},
    }
    with Model() as master:
        master.build_from_file(str(file), ModelType.MINDIR, config_dict=shared)
        handle = master.get_model_info("shareable_weight_mem_handle")
        wanted = configured(config_info={"cpu_context": {"shareable_weight_mem_handle": handle}})
        with opened(file, wanted) as runner:
            weight = Tensor(np.zeros(16, np.float32))
            weight.name = "b"
            master.update_weights([[weight]])
            wait_until(lambda: np.allclose(answer(runner), 2 * X.sum(1, keepdims=True)))


def test_a_number_without_dimensions_stays_one(tmp_path: Path) -> None:
    net = model(
        [helper.make_node("Mul", ["s", "t"], ["y"])],
        {"t": np.array(2, np.float32)},
        inputs=[port("s", [])],
        outputs=[port("y", [])],
    )
    with opened(saved(net, tmp_path / "number.mindir")) as runner:
        found = answer(runner, np.array(3, np.float32))
        assert (found.shape, found) == ((), 6)


# --- anything ----------------------------------------------------------------------------------


some = (
    st.none()
    | st.text(max_size=2)
    | st.just(X)
    | st.builds(Tensor)
    | st.sampled_from([X, X[:1], X.T, X.astype("f8")]).map(Tensor)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(some, max_size=2) | some, st.none() | st.lists(some, max_size=2) | some)
def test_whatever_comes_it_is_answered_or_refused_in_one_of_two_ways(
    built: ModelParallelRunner, inputs: Any, outputs: Any
) -> None:
    try:
        built.predict(inputs, outputs)
    except (TypeError, RuntimeError):
        assert answer(built).shape == (2, 16)
