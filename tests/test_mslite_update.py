"""Model.update_weights by MindSpore Lite's contract, on models that this process has alone."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.nets import dense, model, normalised, normalised_parts, port, privately, saved
from weightd import DataType, Model, ModelType, Tensor
from weightd.errors import MismatchError, SourceChangedError, UsageError
from weightd.weights.arrays import Array

LENET = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"
X = np.arange(16, dtype=np.float32).reshape(1, 16)
W, B = np.full((16, 16), 0.5, np.float32), np.full(16, 0.5, np.float32)


def weight(name: str, array: Array) -> Tensor:
    tensor = Tensor(array)
    tensor.name = name
    return tensor


def without_data(name: str) -> Tensor:
    tensor = Tensor()
    tensor.name = name
    return tensor


def opened(path: Path, names: str | None) -> Model:
    """A model whose list of variable weights has these lines. The caller closes it."""
    built = Model()
    settings = None
    if names is not None:
        (path.parent / "names.txt").write_text(names)
        listed = str(path.parent / "names.txt")
        settings = {"ascend_context": {"variable_weights_file": listed}}
    built.build_from_file(str(path), ModelType.MINDIR, config_dict=settings)
    return built


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(), tmp_path / "model.mindir")


@pytest.fixture
def built(file: Path) -> Iterator[Model]:
    """y = x @ w + b, all 0.5; w and b may be replaced."""
    with opened(file, "w\nb\n") as built:
        yield built


def answer(built: Model, x: Array = X) -> Array:
    return built.predict([Tensor(x)])[0].get_data_to_numpy()


def is_of(found: Array, w: Array = W, b: Array = B) -> bool:
    return np.allclose(found, X @ w + b)


# --- what it changes ---------------------------------------------------------------------------


def test_weights_are_replaced_by_their_names_and_the_others_stay(built: Model) -> None:
    assert is_of(answer(built))
    assert built.update_weights([[weight("w", 2 * W)]]) is None  # type: ignore[func-returns-value]
    assert is_of(answer(built), w=2 * W)
    built.update_weights([[weight("b", 3 * B)]])
    assert is_of(answer(built), w=2 * W, b=3 * B)


def test_lists_are_as_good_as_one_list(built: Model) -> None:
    built.update_weights([[weight("b", 3 * B)], [], [weight("w", 2 * W)]])
    assert is_of(answer(built), w=2 * W, b=3 * B)


def test_a_list_may_have_names_of_its_own_for_the_models(file: Path) -> None:
    with opened(file, "lora.up, w\nb\n") as built:
        built.update_weights([[weight("lora.up", 2 * W), weight("b", 3 * B)]])
        assert is_of(answer(built), w=2 * W, b=3 * B)
        with pytest.raises(RuntimeError, match="update weight failed! Error is 'w' is not decl"):
            built.update_weights([[weight("w", W)]])


def test_weights_without_names_are_those_of_the_list_in_its_order(file: Path) -> None:
    with opened(file, "b\nw\n") as built:
        built.update_weights([[Tensor(3 * B), Tensor(2 * W)]])
        assert is_of(answer(built), w=2 * W, b=3 * B)
        for few in ([[Tensor(B)]], [[Tensor(B), weight("w", W)]]):
            with pytest.raises(RuntimeError, match="update weight failed! Error is"):
                built.update_weights(few)
        assert is_of(answer(built), w=2 * W, b=3 * B)


def test_what_was_given_can_change_afterwards(built: Model) -> None:
    w = 2 * W
    built.update_weights([[weight("w", w)]])
    w[:] = 9
    built.update_weights([[weight("b", B)]])
    assert is_of(answer(built), w=2 * W)


@pytest.mark.parametrize("case", ["columns", "gaps", "read-only", "broadcast"])
def test_weights_in_any_order_of_memory_are_taken(built: Model, case: str) -> None:
    w = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
    given = {
        "columns": np.asfortranarray(w),
        "gaps": np.repeat(w, 2, axis=1)[:, ::2],
        "read-only": w,
        "broadcast": np.broadcast_to(w[0], (16, 16)),
    }[case]
    if case == "read-only":
        given.flags.writeable = False
    built.update_weights([[weight("w", given)]])
    assert is_of(answer(built), w=np.ascontiguousarray(given))


def test_a_resize_keeps_what_was_replaced() -> None:
    x = np.random.default_rng(1).standard_normal((2, 1, 32, 32)).astype(np.float32)
    zeros = weight("fc3.bias", np.zeros(10, np.float32))
    matrix = weight("fc3.weight", np.zeros((10, 84), np.float32))
    with Model() as built:
        built.build_from_file(str(LENET), ModelType.MINDIR)
        with pytest.raises(RuntimeError, match="no weights are declared"):
            built.update_weights([[zeros]])
    with opened_lenet("fc3.bias\nfc3.weight\n") as built:
        built.update_weights([[zeros, matrix]])
        built.resize(built.get_inputs(), [[2, 1, 32, 32]])
        assert not answer(built, x).any()
        built.update_weights([[weight("fc3.bias", np.ones(10, np.float32))]])
        assert (answer(built, x) == 1).all()


def opened_lenet(names: str) -> Model:
    listed = os.memfd_create("names")
    try:
        os.write(listed, names.encode())
        built = Model()
        path = f"/proc/self/fd/{listed}"
        built.build_from_file(
            str(LENET),
            ModelType.MINDIR,
            config_dict={"ascend_context": {"variable_weights_file": path}},
        )
        return built
    finally:
        os.close(listed)


def test_normalisation_that_is_folded_away_keeps_its_names(tmp_path: Path) -> None:
    weights, x = normalised_parts()
    before = saved(normalised(weights), tmp_path / "before.mindir")
    with opened(before, "\n".join(weights)) as built:
        for changed in ({"scale": 3}, {"mean": 0, "var": 2}, {"w": 1}):
            weights |= {name: np.full_like(weights[name], to) for name, to in changed.items()}
            built.update_weights([[weight(name, weights[name]) for name in changed]])
            after = saved(normalised(weights), tmp_path / "after.onnx")
            assert np.allclose(answer(built, x), privately(after, {"x": x})["y"], atol=1e-4)


def test_a_weight_that_was_computed_away_keeps_its_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["w", "two"], ["double"]),
        helper.make_node("MatMul", ["x", "double"], ["y"]),
    ]
    net = model(nodes, {"w": W, "two": np.array(2, np.float32)})
    with opened(saved(net, tmp_path / "m.mindir"), "w\ntwo\n") as built:
        built.update_weights([[weight("w", 3 * W)]])
        assert np.allclose(answer(built), X @ (6 * W))
        built.update_weights([[weight("two", np.array(1, np.float32))]])
        assert np.allclose(answer(built), X @ (3 * W))


# --- what is wrong -----------------------------------------------------------------------------

KINDS: dict[str, tuple[Any, str]] = {
    "no list": (Tensor(W), "weights must be list, but got"),
    "a tuple": (([weight("w", W)],), "weights must be list, but got"),
    "a flat list": ([weight("w", W)], "weight must be list, but got"),
    "a tuple within": ([(weight("w", W),)], "weight must be list, but got"),
    "arrays": ([[W]], "weights element must be Tensor, but got"),
    "the second list": ([[weight("w", W)], None], "weight must be list, but got"),
}


@pytest.mark.parametrize("case", KINDS)
def test_another_type_is_refused_in_upstreams_words(built: Model, case: str) -> None:
    weights, text = KINDS[case]
    for each in (built, Model()):  # types before everything else
        with pytest.raises(TypeError) as caught:
            each.update_weights(weights)
        assert str(caught.value).startswith(text)


UNFIT: dict[str, tuple[list[Tensor], type[Exception], str]] = {
    "nothing": ([], UsageError, "Common error code"),
    "an unknown name": ([weight("v", W)], UsageError, "'v' is not declared"),
    "an input's name": ([weight("x", W)], UsageError, "'x' is not declared"),
    "twice": ([weight("w", W), weight("w", W)], UsageError, "given twice"),
    "another shape": ([weight("w", W[:8])], MismatchError, "w"),
    "the same bytes": ([weight("w", W.reshape(-1))], MismatchError, "w"),
    "another dtype": ([weight("w", W.astype(np.float64))], MismatchError, "w"),
    "one of two": ([weight("b", 9 * B), weight("w", W[:8])], MismatchError, "w"),
    "no data": ([without_data("w")], ValueError, "no data"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_do_not_fit_change_nothing(built: Model, case: str) -> None:
    tensors, cause, text = UNFIT[case]
    with pytest.raises(RuntimeError) as caught:
        built.update_weights([tensors])
    assert str(caught.value).startswith("update weight failed! Error is ")
    assert text in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)
    assert is_of(answer(built))


def test_a_weight_that_the_list_does_not_have_is_not_replaced(file: Path) -> None:
    with opened(file, "b\n") as built:
        with pytest.raises(RuntimeError, match="'w' is not declared in variable_weights_file"):
            built.update_weights([[weight("w", W)]])
        with pytest.raises(RuntimeError, match="'w' is not declared"):
            built.update_weights([[weight("b", 9 * B), weight("w", W)]])
        assert is_of(answer(built))


def test_two_names_of_one_weight_cannot_both_be_given(file: Path) -> None:
    with opened(file, "one,b\nother,b\n") as built:
        built.update_weights([[weight("other", 3 * B)]])
        with pytest.raises(RuntimeError, match="given twice"):
            built.update_weights([[weight("one", B), weight("other", 2 * B)]])
        assert is_of(answer(built), b=3 * B)


def test_without_a_list_nothing_can_be_replaced(file: Path) -> None:
    with opened(file, None) as built:
        with pytest.raises(RuntimeError, match=r"update weight failed! .* variable_weights_file"):
            built.update_weights([[weight("w", W)]])
        with pytest.raises(RuntimeError, match="update weight failed! Error is Common error code"):
            built.update_weights([[]])


def test_a_file_may_say_itself_what_can_be_replaced(tmp_path: Path) -> None:
    """As upstream's converter writes it into a model, whose script then names no list."""
    net = dense()
    net.metadata_props.add(key="variable_weights_list", value="b, w")
    with opened(saved(net, tmp_path / "m.mindir"), None) as built:
        built.update_weights([[Tensor(3 * B), Tensor(2 * W)]])
        assert is_of(answer(built), w=2 * W, b=3 * B)
    declared = opened(tmp_path / "m.mindir", "b\n")  # what the script says counts more
    with declared, pytest.raises(RuntimeError, match="'w' is not declared"):
        declared.update_weights([[weight("w", W)]])


def test_a_model_that_is_not_built_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        Model().update_weights([[weight("dummy", np.zeros((1, 1)))]])
    assert "update weight failed! Error is " in str(caught.value)
    assert "Session is null, please build model first!" in str(caught.value)


def test_a_file_that_has_changed_since_is_refused_and_nothing_changes(
    built: Model, file: Path
) -> None:
    with file.open("r+b") as stream:
        stream.write(dense(7).SerializeToString())
    with pytest.raises(RuntimeError, match="has changed since the model was built") as caught:
        built.update_weights([[weight("b", 3 * B)]])
    assert isinstance(caught.value.__cause__, SourceChangedError)
    assert is_of(answer(built))


def test_a_file_that_was_replaced_or_deleted_is_still_the_models(built: Model, file: Path) -> None:
    saved(dense(7), file.with_name("new")).rename(file)
    built.update_weights([[weight("b", 3 * B)]])
    file.unlink()
    built.update_weights([[weight("b", 4 * B)]])
    assert is_of(answer(built), b=4 * B)


def test_zeros_of_a_declared_dtype_are_weights_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"])]
    ports = {"inputs": [port("x", ["n"], 7)], "outputs": [port("y", ["n"], 6)]}
    net = model(nodes, {"w": np.arange(4, dtype=np.int32)}, **ports)
    with opened(saved(net, tmp_path / "m.mindir"), "w") as built:
        new = Tensor(shape=[4], dtype=DataType.INT32)
        built.update_weights([[new]])
        assert not answer(built, np.array([3])).any()


# --- while others predict ------------------------------------------------------------------------


def test_every_prediction_is_of_one_set_while_weights_are_replaced(built: Model) -> None:
    """w and b are always the same number, so an answer of two sets shows."""
    stop, mixed = threading.Event(), list[float]()
    x = np.ones((1, 16), np.float32)

    def predict() -> None:
        while not stop.is_set():
            found = set(answer(built, x).reshape(-1).tolist())
            mixed.extend(value for value in found if value % 17 or len(found) != 1)

    built.update_weights([[weight("w", 2 * W), weight("b", 2 * B)]])
    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 40):
            built.update_weights([[weight("w", number * 2 * W), weight("b", number * 2 * B)]])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not mixed
    assert (answer(built, x) == 39 * 17).all()


def test_threads_that_replace_different_weights_lose_none(built: Model) -> None:
    threads = [
        threading.Thread(target=built.update_weights, args=([[weight(name, array)]],))
        for name, array in (("w", 2 * W), ("b", 3 * B))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_of(answer(built), w=2 * W, b=3 * B)


# --- anything ----------------------------------------------------------------------------------

tensors = st.builds(
    weight,
    st.sampled_from(["w", "b", "", "x"]),
    st.sampled_from([W, B, W[:8], B.astype("f8"), W.T, np.zeros(0, np.float32)]),
)
some = st.none() | st.integers() | tensors | st.just(W) | st.text(max_size=2)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(tensors, max_size=3) | some, max_size=3) | some)
def test_whatever_comes_it_is_taken_or_refused_in_one_of_three_ways(
    tmp_path_factory: pytest.TempPathFactory, weights: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "update.mindir"
    if not path.exists():
        saved(dense(), path)
    with opened(path, "w\nb\n") as built:
        try:
            built.update_weights(weights)
        except (TypeError, ValueError, RuntimeError):
            assert is_of(answer(built))
