"""Every model of the zoo answers over shared packed weights what a private session answers, bit for
bit: as it is loaded, after switches there and back, and when its next version is opened anew."""

from collections.abc import Iterator

import pytest

from tests.pairs import Pair, core_of, entry_named, paired
from tests.zoo import ZOO, name_of

# QLinearConv packs its weights where nobody can give it packed ones.
ON_PLAIN = {"static_int8_conv"}
# What must be switched in place: a new session for each version would be right, and slow.
IN_PLACE = [
    "matmul",
    "mlp",
    "gemm_options",
    "same_content_once",
    "big_table",
    "conv_batch_norm",
    "residual",
    "lstm",
    "lstm_both_ways",
    "gru",
    "attention",
    "feed_forward",
    "nbits4",
    "many_ports",
]
# Where another version must not be shown to an open session: a branch that was not taken yet could
# have kept something of the first.
REBUILT = ["branches_then", "branches_else", "loop", "branches_in_a_loop", "scan"]


@pytest.fixture(scope="module", params=ZOO, ids=name_of)
def entry_pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Pair]]:
    with paired(request.param) as pair:
        yield request.param.name, pair


def test_it_runs_on_packed_weights_or_is_known_not_to(entry_pair: tuple[str, Pair]) -> None:
    name, pair = entry_pair
    expected = "plain" if name in ON_PLAIN else "prepacked"
    for number in (1, 2):
        stamp = pair.map(number).manifest.stamp
        assert (stamp["engine"], stamp["answer"]) == (expected, "exact")
        assert bool(stamp.get("note", "")) == (name in ON_PLAIN)
        session = pair.open(number)
        assert (session.engine, session.note) == (expected, "")
        session.close()


def test_its_answers_are_those_of_a_private_session_through_switches_there_and_back(
    entry_pair: tuple[str, Pair],
) -> None:
    _, pair = entry_pair
    session = pair.open(1)
    for number in (1, 2, 1, 2):
        session.swap(pair.map(number))
        assert pair.number_of(session.run(pair.feed)) in same_answers(pair, number)
    session.close()


def test_its_next_version_opened_anew_answers_as_a_private_session(
    entry_pair: tuple[str, Pair],
) -> None:
    _, pair = entry_pair
    session = pair.open(2)
    assert pair.number_of(session.run(pair.feed)) in same_answers(pair, 2)
    session.swap(pair.map(1))
    assert pair.number_of(session.run(pair.feed)) in same_answers(pair, 1)
    session.close()


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_next_version_of_it_is_shown_in_place(name: str) -> None:
    with paired(entry_named(name)) as pair:
        session = pair.open_packed(1)
        core = core_of(session)
        assert core.takes(pair.map(2))
        session.swap(pair.map(2))
        assert core_of(session) is core
        assert (core.version.number, pair.run(core)) == (2, 2)
        session.close()


@pytest.mark.parametrize("name", REBUILT)
def test_a_model_with_branches_or_a_loop_gets_a_new_session(name: str) -> None:
    with paired(entry_named(name)) as pair:
        session = pair.open_packed(1)
        core = core_of(session)
        assert not core.takes(pair.map(2))
        session.swap(pair.map(2))
        assert core_of(session) is not core
        session.close()


def same_answers(pair: Pair, number: int) -> set[int]:
    """The version, or both where a model has no weights and so one answer."""
    return {1} if pair.bits[0] == pair.bits[1] else {number}
