"""Rules in the state that a successor of the daemon adopts."""

import os

import pytest

from weightd.daemon import adoption, state
from weightd.daemon.model import Model
from weightd.daemon.policy import Policy, Rule
from weightd.daemon.state import KeptModel, State
from weightd.errors import DamagedStateError

RULES = ("uid:1000", "gid:100", "unit:a@*.service")


def kept(**rules: tuple[str, ...]) -> KeptModel:
    return KeptModel("m", 0, 2, (1,), (), (), **rules)  # type: ignore[arg-type]  # by name


def test_rules_come_back_as_they_were() -> None:
    written = state.encode(State("one", 1, (kept(allow=RULES, deny=("uid:1001",)),)))
    [model] = state.decode(written).models
    policy = state.policy_of(model)
    assert policy == Policy(tuple(map(Rule.parse, RULES)), (Rule("uid", "1001"),))


def test_a_state_without_rules_is_of_an_older_daemon() -> None:
    assert state.policy_of(kept()) == Policy()


@pytest.mark.parametrize("text", ["user:alice", "exe:/bin/sh", "uid:65534", "", "moon:full"])
def test_a_rule_that_is_not_understood_is_damage(text: str) -> None:
    with pytest.raises(DamagedStateError, match="the rules of 'm'"):
        state.policy_of(kept(deny=(text,)))


def test_where_rules_are_damaged_nobody_is_let_in() -> None:
    grant = state.KeptGrant(1, (("pid+start", os.getpid(), 1, os.getpid()),))
    damaged = KeptModel("m", 0, 2, (1,), (), (grant,), deny=("moon:full",))
    model, adopted = Model("m", 0), adoption.Adopted()
    adoption._adopt_rights(model, damaged, adopted)
    assert (model.grants, model.policy, adopted.processes) == ([], Policy(), [])
    assert "nobody may attach it now" in adopted.refused[0]
