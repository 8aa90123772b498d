"""Catalogs, one after the other, beside tests/catalog_model.py, and what must always be so of them.
What may happen is in tests/test_catalog_machine.py."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from tests.catalog_model import Expected
from weightd.daemon import state
from weightd.daemon.bounds import Bounds
from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Action, Free, Model, VersionState
from weightd.daemon.policy import Rule
from weightd.daemon.sources import Sources
from weightd.daemon.vault import Vault
from weightd.ipc.peer import Key


class Memory(Vault):
    """Stands for the segments: each version lies in one, whose inode is its uid."""

    def get(self, uid: int) -> Any:
        return SimpleNamespace(segments=(SimpleNamespace(inode=uid),))


def adopted(kept: state.KeptModel) -> Model:
    """As adoption.py puts it together, with all memory and processes still there."""
    model = state.model_of(kept)
    model.versions = {v.number: state.version_of(v) for v in kept.versions}
    model.was_live = list(kept.was_live)
    model.policy = state.policy_of(kept)
    model.grants = [state.grant_of(grant) for grant in kept.grants]
    return model


def key(pid: int) -> Key:
    return Key("machine", pid, pid)


def rules(uids: Iterable[int]) -> tuple[Rule, ...]:
    return tuple(Rule("uid", str(uid)) for uid in sorted(uids))


class Catalogs(RuleBasedStateMachine):
    """A real catalog, what is expected of it, and what it announced so far."""

    @initialize(keep=st.integers(1, 3), versions=st.integers(3, 5), leases=st.integers(2, 9))
    def begin(self, keep: int, versions: int, leases: int) -> None:
        self.expected = Expected(keep, versions, leases)
        self.catalog = Catalog(self.bounds())
        self.published: set[int] = set()  # uids, of all daemons together
        self.freed: set[int] = set()
        self.forgotten: set[int] = set()  # of unloaded models, with the daemon that had them
        self.highest: dict[str, int] = {}  # number, since the model was loaded
        self.handle = self.once = 0
        self.entries: dict[str, state.KeptModel] = {}  # of models that are set aside
        self.revision = -1
        self.begun()

    def begun(self) -> None:
        """What is always done first."""
        raise NotImplementedError

    def bounds(self) -> Bounds:
        it = self.expected
        return Bounds(keep=it.keep, leases_per_uid=it.most_leases, versions_held=it.most_versions)

    def took(self, actions: list[Action]) -> None:
        """Hold what was announced to what is expected."""
        freed = [action.uid for action in actions if isinstance(action, Free)]
        assert len(set(freed)) == len(freed)
        assert set(freed) == self.expected.settle()
        assert not self.freed & set(freed)
        self.freed |= set(freed)

    def captured(self) -> state.State:
        aside = tuple(self.entries[name] for name in self.catalog.aside)
        found = state.captured("one", self.catalog, Memory(), Sources(lambda _: None), aside)
        models = tuple(sorted(found.models, key=lambda model: model.name))
        return msgspec.structs.replace(found, models=models)

    def new_once(self, name: str, number: int) -> int:
        """Of a request that will make this version live."""
        self.once += 1
        self.expected.done[self.once] = (name, number)
        return self.once

    @invariant()
    def a_successor_would_find_everything(self) -> None:
        now = self.captured()
        if self.catalog.revision != self.revision:  # as Succession.commit()
            self.written, self.revision = now, self.catalog.revision
        assert now.models == self.written.models  # it changed, and the revision did not
        assert now.done == self.written.done

    @invariant()
    def what_was_done_is_remembered(self) -> None:
        for once, (name, number) in self.expected.done.items():
            assert self.catalog.done.version(once, name) == number
            assert self.catalog.done.version(once, name + "?") is None

    @invariant()
    def versions_are_held_by_whom_they_should(self) -> None:
        assert self.catalog.models.keys() == self.expected.models.keys()
        models = {id(lease.model): lease.model for lease in self.catalog.leases.values()}
        models |= {id(model): model for model in self.catalog.models.values()}
        found = {v.uid: v.leases for model in models.values() for v in model.versions.values()}
        toldest = (*self.expected.models.values(), *self.expected.unloaded)
        assert found == {
            uid: {lease for lease, worker in self.expected.workers.items() if uid in worker.maps}
            for told in toldest
            for uid in told.held.values()
        }
        aside = {uid for told in self.expected.aside.values() for uid in told.held.values()}
        assert self.published - self.freed - self.forgotten == found.keys() | aside
        assert self.catalog.aside.keys() == self.expected.aside.keys()

    @invariant()
    def each_model_has_one_live_version(self) -> None:
        for name, told in self.expected.models.items():
            model = self.catalog.models[name]
            assert {n: v.uid for n, v in model.versions.items()} == told.held
            states = {n: v.state for n, v in model.versions.items()}
            others = dict.fromkeys(states.keys() - {told.live}, VersionState.HELD)
            assert states == {told.live: VersionState.LIVE, **others}
            damaged = {n for n, v in model.versions.items() if v.damage}
            assert damaged == told.damaged & told.held.keys()
            assert model.was_live == told.order
            assert model.next_number == told.next_number == self.highest[name] + 1

    @invariant()
    def leases_are_where_their_workers_are(self) -> None:
        workers = self.expected.workers
        assert self.catalog.leases.keys() == workers.keys()
        for lease in self.catalog.leases.values():
            worker = workers[lease.id]
            assert (lease.version, lease.is_revoked) == (worker.runs, worker.is_revoked)
            assert lease.model.versions[lease.version].uid in worker.maps

    @invariant()
    def nobody_else_may_attach(self) -> None:
        for name, told in self.expected.models.items():
            listed = {pid for pid, handles in told.handles.items() if handles}
            assert set(self.catalog.models[name].allowed_pids()) == listed
