"""catalog.py, walked at random: whatever happens in whatever order, its invariants hold."""

import contextlib
import random
from collections import Counter

import pytest

from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Action, Free, VersionState
from weightd.daemon.policy import Guest
from weightd.errors import RefusedError
from weightd.ipc.peer import Key

STEPS = 400
DOINGS = [
    *("load", "stage", "finish", "finish", "rollback", "unload", "attach", "attach"),
    *("pull", "pull", "pull", "detach", "revoke", "end"),
]


class Walk:
    """Does random things to a catalog and remembers what it announced."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.keep = self.random.choice([1, 2, 3])
        self.catalog = Catalog(keep=self.keep)
        self.freed: Counter[int] = Counter()
        self.published: dict[str, list[int]] = {}
        self.staged: set[str] = set()
        self.mapped: dict[int, Counter[int]] = {}  # what each lease's worker maps: version uids

    def step(self) -> None:
        doing = getattr(self, self.random.choice(DOINGS))
        with contextlib.suppress(RefusedError):
            self.took(doing(self.random.choice(["a", "b"])))

    def took(self, actions: list[Action]) -> None:
        self.freed.update(action.uid for action in actions if isinstance(action, Free))

    def key(self) -> Key:
        return Key("walk", self.random.randint(1, 4), 1)

    def lease(self) -> int:
        if not self.catalog.leases:
            raise RefusedError("nobody is attached")
        return self.random.choice(list(self.catalog.leases))

    def load(self, name: str) -> list[Action]:
        self.catalog.stage_new(name)
        self.staged.add(name)
        self.published[name] = []
        return []

    def stage(self, name: str) -> list[Action]:
        self.catalog.stage_next(name)
        self.staged.add(name)
        return []

    def finish(self, name: str) -> list[Action]:
        if name not in self.staged:
            return []
        self.staged.discard(name)
        if self.random.random() < 0.3:
            self.catalog.abort(name)
            return []
        actions = self.catalog.publish(name, 0)
        self.published[name].append(self.catalog.model(name).live.number)
        return actions

    def rollback(self, name: str) -> list[Action]:
        return self.catalog.rollback(name, self.random.choice([None, None, 1, 2, 3]))

    def unload(self, name: str) -> list[Action]:
        return self.catalog.unload(name) if self.random.random() < 0.3 else []

    def attach(self, name: str) -> list[Action]:
        key = self.key()
        self.catalog.allow(name, {key: key.pid}, 1)
        self.catalog.attach(name, key, Guest(key.pid, 0, 0), None)
        return []

    def pull(self, _: str) -> list[Action]:
        """What a worker does: pull, switch or not, release the one that it does not run."""
        lease = self.catalog.leases[self.lease()]
        old, new = lease.version, self.catalog.pull(lease.id).number
        if new == old:
            return []
        if self.random.random() < 0.2:
            self.catalog.not_switched(lease.id, new, "because")
            return self.catalog.released(lease.id, new)
        self.catalog.switched(lease.id, new, 1.0)
        return self.catalog.released(lease.id, old)

    def detach(self, _: str) -> list[Action]:
        return self.catalog.detach(self.lease())

    def revoke(self, name: str) -> list[Action]:
        return self.catalog.revoke(name, {self.random.randint(1, 4)})[1]

    def end(self, _: str) -> list[Action]:
        return self.catalog.process_ended(self.key())

    def check(self) -> None:
        for model in self.catalog.models.values():
            states = [version.state for version in model.versions.values()]
            assert states.count(VersionState.LIVE) == 1
            assert model.live.state is VersionState.LIVE
            unleased = [v for v in model.versions.values() if not v.leases]
            assert len(unleased) <= self.keep
            assert sorted(model.was_live) == sorted(model.versions)
            numbers = self.published[model.name]
            assert numbers == list(range(1, len(numbers) + 1))
        for lease in self.catalog.leases.values():
            assert lease.id in lease.model.versions[lease.version].leases
            for version in lease.model.versions.values():
                assert self.freed[version.uid] == 0
                assert version.leases <= self.catalog.leases.keys()
        assert set(self.freed.values()) <= {1}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_invariants_hold(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
        walk.check()
    assert walk.freed


@pytest.mark.parametrize("seed", range(5))
def test_when_everybody_left_and_all_is_unloaded_all_memory_was_freed_once(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    for name in walk.staged:
        walk.catalog.abort(name)
    leases = walk.catalog.leases.copy()
    for name in list(walk.catalog.models):
        walk.took(walk.catalog.unload(name))
    for lease in leases:
        walk.took(walk.catalog.detach(lease))
    assert set(walk.freed.values()) == {1}
    assert not walk.catalog.leases
    assert not walk.catalog.models
