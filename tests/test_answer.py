"""The reference answer: which inputs are made up, and what counts as the same answer."""

import contextlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from weightd.backends import answer
from weightd.backends.answer import BOUND, Answer, Arrays
from weightd.errors import AnswerError, DeadlineError, PredictError
from weightd.weights.arrays import Array
from weightd.weights.entries import Port

X = np.array([1.0, -2.0, 4.0], np.float32)


def tried(*ports: Port, takes: Callable[[Arrays], bool] = lambda _: False) -> list[Arrays]:
    """The inputs that are tried until some are taken, or there are no more."""
    seen: dict[int, Arrays] = {}  # each is asked twice

    def run(inputs: Arrays) -> Arrays:
        seen.setdefault(id(inputs), inputs)
        if not takes(inputs):
            raise PredictError("not these")
        return {"y": X}

    with contextlib.suppress(PredictError):
        answer.ask(ports, run)
    return list(seen.values())


# --- what is asked -----------------------------------------------------------------------


def test_inputs_have_the_dtypes_and_shapes_of_the_ports() -> None:
    ports = [
        Port("f", "float32", (2, 3)),
        Port("h", "float16", (4,)),
        Port("b16", "bfloat16", (4,)),
        Port("d", "float64", ()),
        Port("i", "int64", (5,)),
        Port("u", "uint8", (5,)),
        Port("flag", "bool", (2,)),
        Port("none", "float32", (0, 4)),
    ]
    (inputs,) = tried(*ports, takes=lambda _: True)
    for port in ports:
        assert inputs[port.name].shape == port.shape
        assert inputs[port.name].dtype == np.dtype(
            ml_dtypes.bfloat16 if port.dtype == "bfloat16" else port.dtype
        )
    assert inputs["flag"].all()
    assert set(inputs["i"]) <= set(range(5))
    assert len(set(inputs["f"].ravel())) == 6  # not all the same: an answer should show an error


def test_the_same_inputs_are_made_up_each_time() -> None:
    ports = [Port("x", "float32", ("n", 4)), Port("i", "int32", (3,))]
    first, second = tried(*ports), tried(*ports)
    assert len(first) > 1
    assert [{n: a.tobytes() for n, a in inputs.items()} for inputs in first] == [
        {n: a.tobytes() for n, a in inputs.items()} for inputs in second
    ]


def test_dimensions_that_are_open_are_tried_in_several_sizes_all_of_them_alike() -> None:
    seen = tried(Port("x", "float32", ("n", None, 7)), Port("z", "float32", ("m",)))
    shapes = [(inputs["x"].shape, inputs["z"].shape) for inputs in seen]
    assert {((1, 1, 7), (1,)), ((2, 2, 7), (2,))} == set(shapes[:2])
    assert len(set(shapes)) == len(shapes) == len(answer._SIZES)


def test_whole_numbers_are_tried_smaller_and_at_last_as_ones() -> None:
    seen = tried(Port("i", "int64", (100,)))
    assert [sorted(set(inputs["i"].tolist())) for inputs in seen] == [[0, 1, 2, 3, 4], [0, 1], [1]]


def test_a_graph_without_open_dimensions_and_whole_numbers_is_asked_once() -> None:
    assert len(tried(Port("x", "float32", (2,)))) == 1
    assert len(tried()) == 1


def test_the_first_inputs_that_the_graph_takes_are_those_of_the_answer() -> None:
    def run(inputs: Arrays) -> Arrays:
        if inputs["x"].shape[0] != 8:
            raise PredictError("eight, please")
        return {"y": inputs["x"] * 2}

    found = answer.ask((Port("x", "float32", ("n",)),), run)
    assert found.inputs["x"].shape == (8,)
    assert found.outputs["y"].tobytes() == (found.inputs["x"] * 2).tobytes()
    assert found.is_exact


def test_a_graph_that_takes_none_says_what_was_wrong_with_the_first() -> None:
    seen: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        largest = int(inputs["i"].max())
        seen.append(largest)
        raise PredictError(f"not {largest}")

    with pytest.raises(PredictError, match="none of the inputs that were tried will do: not 4"):
        answer.ask((Port("i", "int64", (100,)),), run)
    assert set(seen) == {4, 1}


def test_a_graph_that_does_not_end_is_not_asked_again() -> None:
    asked: set[tuple[int, ...]] = set()

    def run(inputs: Arrays) -> Arrays:
        asked.add(inputs["x"].shape)
        raise DeadlineError("too long")

    with pytest.raises(DeadlineError):
        answer.ask((Port("x", "float32", ("n",)),), run)
    assert len(asked) == 1


# --- twice -------------------------------------------------------------------------------


def says(*outputs: Array) -> Callable[[Arrays], Arrays]:
    """A graph that gives each of these once, in some order."""
    left = list(outputs)
    return lambda _: {"y": left.pop()}


def test_a_graph_that_repeats_itself_nearly_is_held_to_a_bound() -> None:
    found = answer.ask((), says(X, X + np.float32(BOUND)))
    assert not found.is_exact
    assert set(found.outputs) == {"y"}


@pytest.mark.parametrize("other", [X + 1, X[:2], X.astype(np.float64), X * np.nan])
def test_a_graph_that_says_two_things_has_no_answer(other: Array) -> None:
    with pytest.raises(PredictError, match="not give the same answer twice: output 'y'"):
        answer.ask((), says(X, other))


@pytest.mark.parametrize(
    "outputs", [X * np.nan, np.sign(X), np.zeros(3, np.float32), np.array([3])], ids=str
)
def test_an_answer_that_any_weights_could_give_is_none(outputs: Array) -> None:
    with pytest.raises(PredictError, match="the same answer for all inputs"):
        answer.ask((Port("x", "float32", (2,)),), lambda _: {"y": outputs})


def test_whole_numbers_are_an_answer_when_they_follow_whole_inputs() -> None:
    port = Port("x", "int64", (20,))
    assert answer.ask((port,), lambda inputs: {"y": inputs["x"] * 2}).is_exact


def test_few_numbers_are_an_answer_when_they_follow_the_inputs() -> None:
    def sign(inputs: Arrays) -> Arrays:
        return {"y": np.sign(inputs["x"])}

    assert answer.ask((Port("x", "float32", (20,)),), sign).is_exact


@pytest.mark.parametrize("what", ["input", "output"])
def test_what_is_too_large_to_compare_is_not_kept(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "_MAX_NBYTES", 100)
    nfloats = {"input": (26, 1), "output": (1, 26)}[what]
    outputs = np.arange(nfloats[1], dtype=np.float32)
    with pytest.raises(PredictError, match=f"an {what} of 104 bytes is too large"):
        answer.ask((Port("x", "float32", (nfloats[0],)),), lambda _: {"y": outputs})


def test_bfloat16_may_differ_by_rounding() -> None:
    one = X.astype(ml_dtypes.bfloat16)
    answer.check({"y": one}, Answer({}, {"y": one.copy()}, is_exact=False))


# --- the same ----------------------------------------------------------------------------

NAN = np.array([np.nan, 1, np.inf], np.float32)
ONES = np.ones(3, np.float32)
SAME: list[tuple[Array, Array, bool]] = [
    (X, X.copy(), True),
    (NAN, NAN.copy(), True),
    (NAN, NAN.copy(), False),
    (X, X + np.float32(BOUND), False),
    (X * 1000, (X + np.float32(BOUND)) * 1000, False),
    (NAN, NAN + np.array([0, BOUND / 2, 0], np.float32), False),
    (np.zeros(3, np.float32), -np.zeros(3, np.float32), False),
    (np.empty((0, 2)), np.empty((0, 2)), False),
    (np.array([True]), np.array([True]), False),
    (np.array(["a"]), np.array(["a"]), True),
]
OTHER: list[tuple[Array, Array, bool]] = [
    (X, np.nextafter(X, 9, dtype=np.float32), True),
    (np.zeros(3, np.float32), -np.zeros(3, np.float32), True),
    (X, X.astype(np.float64), False),
    (X, X.reshape(1, 3), False),
    (X, X + np.float32(9 * BOUND), False),
    (ONES, NAN, False),
    (NAN, ONES, False),
    (np.array([np.inf]), np.array([-np.inf]), False),
    (np.array([1, 2]), np.array([1, 3]), False),
    (np.array([200], np.uint8), np.array([100], np.uint8), False),
    (np.array([True]), np.array([False]), False),
    (np.array(["a"]), np.array(["b"]), False),
]


@pytest.mark.parametrize(("wanted", "found", "is_exact"), SAME)
def test_an_answer_that_is_the_same_is_taken(wanted: Array, found: Array, is_exact: bool) -> None:
    answer.check({"y": found}, Answer({}, {"y": wanted}, is_exact))


@pytest.mark.parametrize(("wanted", "found", "is_exact"), OTHER)
def test_another_answer_is_refused_by_the_outputs_name(
    wanted: Array, found: Array, is_exact: bool
) -> None:
    right = {"x": X, "y": wanted}
    with pytest.raises(AnswerError, match="output 'y' is not that of a private session"):
        answer.check({"x": X, "y": found}, Answer({}, right, is_exact))


def test_a_refusal_says_how_far_off_the_answer_is() -> None:
    with pytest.raises(AnswerError, match=r"differ by 0\.25 of the largest"):
        answer.check({"y": X + 1}, Answer({}, {"y": X}))
    with pytest.raises(AnswerError, match=r"float64\[3\], not float32\[3\]"):
        answer.check({"y": X.astype(np.float64)}, Answer({}, {"y": X}))
