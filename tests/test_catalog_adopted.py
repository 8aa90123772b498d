"""catalog.py and state.py, walked at random by daemons that end and are followed by others: what is
written down for a successor is all that it needs, and comes back as it was."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_catalog_walk import DOINGS, STEPS, Walk
from weightd.daemon import state
from weightd.daemon.bounds import Bounds
from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Action, Model, Version, VersionState
from weightd.daemon.policy import Guest, Policy, Rule
from weightd.daemon.sources import Sources
from weightd.daemon.vault import Vault
from weightd.errors import DamagedError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

MORE = ("adopt", "everybody_returned", "rule", "damage", "again")
RULES = (Rule("uid", "0"), Rule("gid", "7"), Rule("unit", "a@*.service"))


class Memory(Vault):
    """Stands for the segments: each version lies in one, whose inode is its uid."""

    def get(self, uid: int) -> Any:
        return SimpleNamespace(segments=(SimpleNamespace(inode=uid),))


def restored(kept: state.KeptModel) -> Model:
    """The model as adoption.py puts it together, with all memory and processes still there."""
    model = Model(kept.name, kept.owner_uid, next_number=kept.next_number)
    model.last_rollback = kept.last_rollback
    model.versions = {
        v.number: Version(v.uid, v.number, VersionState[v.state], once=v.once, damage=v.damage)
        for v in kept.versions
    }
    model.was_live = list(kept.was_live)
    model.policy = state.policy_of(kept)
    model.grants = [state.grant_of(grant) for grant in kept.grants]
    return model


class AdoptedWalk(Walk):
    """As a Walk, by one daemon after the other."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.most = self.random.choice([3, 4, 6])
        self.catalog = Catalog(Bounds(keep=self.keep, versions_held=self.most))
        self.adoptions = self.refused = self.highest = 0
        self.is_awaiting = False

    def step(self) -> None:
        name = self.random.choice([*DOINGS, *DOINGS, *DOINGS, *MORE, "stage", "finish", "finish"])
        doing: Callable[[str], list[Action]] = getattr(self, name)
        try:
            self.took(doing(self.random.choice(["a", "b"])))
        except RefusedError:
            self.refused += 1

    def captured(self) -> state.State:
        memory = Memory()
        return state.captured("one", self.catalog, memory, Sources(lambda _: None))

    def adopt(self, _: str) -> list[Action]:
        """The daemon is killed. Its successor has what was written down, and nothing else."""
        before = self.captured()
        after = state.decode(state.encode(before))
        assert after == before
        self.catalog = Catalog(Bounds(keep=self.keep, versions_held=self.most))
        self.catalog.adopt([restored(model) for model in after.models], after.last_uid)
        assert self.captured() == before
        self.staged.clear()
        self.adoptions += 1
        self.is_awaiting = True
        return []

    def everybody_returned(self, _: str) -> list[Action]:
        self.is_awaiting = False
        return self.catalog.everybody_returned()

    def stage(self, name: str) -> list[Action]:
        actions = super().stage(name)
        self.catalog._staged[name].once = self.random.getrandbits(64)
        return actions

    def rule(self, name: str) -> list[Action]:
        some = [tuple(self.random.sample(RULES, self.random.randint(0, 2))) for _ in range(2)]
        guests = {lease: Guest(each.pid, 0, 0) for lease, each in self.catalog.leases.items()}
        return self.catalog.set_policy(name, Policy(*some), guests)[1]

    def damage(self, name: str) -> list[Action]:
        """Marked versions are not rolled back to."""
        model = self.catalog.model(name)
        version = self.random.choice(list(model.versions.values()))
        version.damage = "planted"
        if version is not model.live:
            with pytest.raises(DamagedError):
                self.catalog.rollback(name, version.number)
        return []

    def again(self, name: str) -> list[Action]:
        """A rollback whose client asks once more, perhaps the next daemon: nothing happens then."""
        once = self.random.getrandbits(63) + 1
        self.took(self.catalog.rollback(name, None, once))
        if self.random.random() < 0.5:
            self.took(self.adopt(name))
        live = self.catalog.model(name).live.number
        assert self.catalog.rollback(name, None, once) == []
        assert self.catalog.model(name).live.number == live
        return []

    def check(self) -> None:
        if not self.is_awaiting:
            super().check()
        for model in self.catalog.models.values():
            assert len(model.versions) <= self.most + 1  # what the next publish frees, too
            assert [v.state for v in model.versions.values()].count(VersionState.LIVE) == 1
            numbers = self.published[model.name]
            assert model.next_number == len(numbers) + 1
            assert max(model.versions) <= numbers[-1]
            self.highest = max(self.highest, numbers[-1])


@pytest.mark.parametrize("seed", range(30))
def test_daemons_that_follow_each_other_keep_the_invariants(seed: int) -> None:
    walk = AdoptedWalk(seed)
    for _ in range(STEPS):
        walk.step()
        walk.check()
    assert walk.adoptions > 1
    assert walk.highest > 1
