"""catalog.py and state.py, by hypothesis: whatever happens in whatever order, to one daemon after
the other, the catalog does what tests/catalog_model.py says, and a successor finds all of it.

A failure prints the shortest run that shows it; CONTRIBUTING.md says how it is replayed.
"""

from contextlib import AbstractContextManager, nullcontext

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.catalog_machine import Catalogs, adopted, key, rules
from tests.catalog_model import Refusal, Worker, uid_of
from weightd.daemon import damage, state
from weightd.daemon.catalog import Catalog
from weightd.daemon.model import (
    Action,
    Aside,
    GiveUp,
    Notify,
    TellRevoked,
)
from weightd.daemon.policy import Guest, Policy
from weightd.errors import NotAllowedError, UnknownModelError, UnknownVersionError

NAMES = st.sampled_from(["a", "b"])
KNOWN: st.SearchStrategy[str] = st.runner().flatmap(
    lambda machine: st.sampled_from(sorted(machine.expected.models))
)
STAGED: st.SearchStrategy[str] = st.runner().flatmap(
    lambda machine: st.sampled_from(sorted(machine.expected.staged))
)
PIDS = st.integers(1, 4)
NUMBERS = st.integers(1, 4)
HANDLES = st.integers(1, 30)
UIDS = st.frozensets(st.sampled_from([0, 1]))
LEASE: st.SearchStrategy[int] = st.runner().flatmap(
    lambda machine: st.sampled_from(sorted(machine.expected.workers))
)
has_workers = precondition(lambda machine: machine.expected.workers)
has_staged = precondition(lambda machine: machine.expected.staged)
SELDOM = st.sampled_from([False, False, False, True])
has_models = precondition(lambda machine: machine.expected.models)


def refused(why: Refusal) -> AbstractContextManager[object]:
    """The one thing that is done in here is refused with this error; None: it is not."""
    return pytest.raises(why) if why else nullcontext()


class CatalogMachine(Catalogs):
    """Real catalogs, one after the other, beside what is expected of them."""

    def begun(self) -> None:
        self.stage("a")
        self.publish("a", is_same=False)

    # --- owners ----------------------------------------------------------------------------

    @rule(name=NAMES)
    def stage(self, name: str) -> None:
        self.staging(name, is_new=name not in self.expected.models)

    def staging(self, name: str, *, is_new: bool) -> None:
        why = self.expected.why_not_staged(name, is_new=is_new)
        with refused(why):
            staged = (self.catalog.stage_new if is_new else self.catalog.stage_next)(name)
        if why is None:
            assert staged.uid not in self.published
            told = self.expected.models.get(name)
            assert staged.number == (told.next_number if told else 1)
            self.expected.staged[name] = staged.number

    @has_staged
    @rule(name=STAGED, is_same=SELDOM)
    def publish(self, name: str, is_same: bool) -> None:
        number = self.expected.staged[name]
        is_first = name not in self.expected.models
        assert number > (0 if is_first else self.highest[name])
        self.catalog._staged[name].once = self.new_once(name, number)
        actions = self.catalog.publish(name, 7, is_same=is_same)
        uid = self.catalog.model(name).live.uid
        assert uid not in self.published
        self.published.add(uid)
        self.highest[name] = number
        self.expected.publish(name, uid, is_same=is_same)
        self.told_of(name, number, actions)

    @has_staged
    @rule(name=STAGED)
    def abort(self, name: str) -> None:
        del self.expected.staged[name]
        self.catalog.abort(name)

    @has_models
    @rule(name=KNOWN, is_same=SELDOM)
    def publish_at_once(self, name: str, is_same: bool) -> None:
        if self.expected.why_not_staged(name, is_new=False) is None:
            self.stage(name)
            self.publish(name, is_same)

    @has_models
    @rule(name=KNOWN, back=st.none() | NUMBERS)
    def rollback(self, name: str, back: int | None) -> None:
        """To the version that was live before; to that of `back` publishes ago."""
        number = None if back is None else self.highest[name] + 1 - back
        why = self.expected.why_not_rolled_back(name, number)
        if why is not None:
            with refused(why):
                self.catalog.rollback(name, number)
            return
        found = self.expected.rollback(name, number)
        actions = self.catalog.rollback(name, number, self.new_once(name, found))
        self.told_of(name, found, actions)

    def told_of(self, name: str, number: int, actions: list[Action]) -> None:
        """Every worker that may have it hears of the new live version, nobody else."""
        told = self.expected.models[name]
        workers = self.expected.workers.items()
        hearing = {lease for lease, w in workers if w.told is told and not w.is_revoked}
        notices = [(a.lease, a.version) for a in actions if isinstance(a, Notify)]
        assert sorted(notices) == [(lease, number) for lease in sorted(hearing)]
        self.took(actions)

    @has_models
    @rule(name=KNOWN, does_happen=SELDOM)
    def unload(self, name: str, does_happen: bool = True) -> None:
        if not does_happen:
            return
        why = self.expected.why_not_unloaded(name)
        with refused(why):
            actions = self.catalog.unload(name)
        if why is None:
            self.expected.unload(name)
            self.took(actions)

    @has_models
    @rule(name=KNOWN, back=NUMBERS, does_happen=SELDOM)
    def damage(self, name: str, back: int, does_happen: bool) -> None:
        """The scrubber found wrong bytes."""
        told, number = self.expected.models[name], self.highest[name] + 1 - back
        if does_happen and number in told.held:
            told.damaged.add(number)
            damage.mark(self.catalog, told.held[number], "planted")

    @rule(keep=st.integers(1, 3), versions=st.integers(3, 5), does_happen=SELDOM)
    def apply_other_settings(self, keep: int, versions: int, does_happen: bool) -> None:
        if not does_happen:
            return
        self.expected.keep, self.expected.most_versions = keep, versions
        self.took(self.catalog.apply(self.bounds()))

    # --- who may attach --------------------------------------------------------------------

    @has_models
    @rule(name=KNOWN, pids=st.sets(PIDS, min_size=1))
    def allow(self, name: str, pids: set[int]) -> None:
        self.handle += 1
        self.catalog.allow(name, {key(pid): pid for pid in pids}, self.handle)
        self.expected.allow(name, pids, self.handle)

    @has_models
    @rule(name=KNOWN, pids=st.sets(PIDS, max_size=2))
    def revoke(self, name: str, pids: set[int]) -> None:
        ended, actions = self.catalog.revoke(name, pids)
        told = self.expected.models[name]
        assert ended == self.expected.revoked(name, pids)
        workers = self.expected.workers.items()
        hearing = {lease for lease, w in workers if w.told is told and w.pid in ended}
        assert {a.lease for a in actions if isinstance(a, TellRevoked)} == hearing

    @has_models
    @rule(name=KNOWN, allow=UIDS, deny=UIDS)
    def set_policy(self, name: str, allow: frozenset[int], deny: frozenset[int]) -> None:
        guests = {i: Guest(w.pid, w.uid, w.uid) for i, w in self.catalog.leases.items()}
        lost, _ = self.catalog.set_policy(name, Policy(rules(allow), rules(deny)), guests)
        told = self.expected.models[name]
        told.allow, told.deny = set(allow), set(deny)
        workers = [w for w in self.expected.workers.values() if w.told is told]
        out = [w for w in workers if not w.is_revoked and not told.lets_in(w.pid)]
        assert lost == {worker.pid for worker in out}
        self.expected.revoke(out)

    @rule(name=NAMES)
    def ask_amiss(self, name: str) -> None:
        """For a new model that is there already, or for anything else of one that is not."""
        if name in self.expected.models:
            self.staging(name, is_new=True)
            return
        self.staging(name, is_new=False)
        for ask in (
            lambda: self.catalog.rollback(name, None),
            lambda: self.catalog.unload(name + "?"),
            lambda: self.catalog.allow(name, {key(1): 1}, 1),
            lambda: self.catalog.revoke(name, set()),
            lambda: self.catalog.set_policy(name, Policy(), {}),
        ):
            with refused(UnknownModelError):
                ask()

    # --- workers ---------------------------------------------------------------------------

    @has_models
    @rule(name=st.none() | NAMES, pid=PIDS, handle=st.none() | st.none() | HANDLES)
    def attach(self, name: str | None, pid: int, handle: int | None) -> None:
        self.attached(name, pid, handle)

    @has_models
    @rule(name=KNOWN, pid=PIDS, by_handle=st.booleans())
    def allow_and_attach(self, name: str, pid: int, by_handle: bool) -> None:
        self.allow(name, {pid})
        self.attached(name, pid, self.handle if by_handle else None)

    def attached(self, name: str | None, pid: int, handle: int | None = None) -> int | None:
        why = self.expected.why_not_attached(name, pid, handle)
        with refused(why):
            lease = self.catalog.attach(name, key(pid), Guest(pid, uid_of(pid), 9), handle)
        if why is not None:
            return None
        told = self.expected.models[lease.model.name]
        assert lease.id not in self.expected.workers
        self.expected.workers[lease.id] = Worker(pid, told, {told.held[told.live]}, told.live)
        return lease.id

    @has_workers
    @rule(lease=LEASE)
    def pull(self, lease: int) -> None:
        worker = self.expected.workers[lease]
        with refused(NotAllowedError if worker.is_revoked else None):
            version = self.catalog.pull(lease)
        if not worker.is_revoked:
            assert version.number == worker.told.live
            worker.maps.add(version.uid)

    @has_workers
    @rule(lease=LEASE)
    def follow(self, lease: int) -> None:
        """What a worker does of itself: pull, switch, let the old version go."""
        worker = self.expected.workers[lease]
        old = worker.runs
        self.pull(lease)
        if not worker.is_revoked and worker.told.live != old:
            self.switched(lease, worker.told.live, does_switch=True)
            self.released(lease, old)

    @has_workers
    @rule(lease=LEASE, back=NUMBERS, does_switch=st.booleans())
    def switch_or_not(self, lease: int, back: int, does_switch: bool) -> None:
        self.switched(lease, max(self.expected.workers[lease].told.held) + 1 - back, does_switch)

    def switched(self, lease: int, number: int, does_switch: bool) -> None:
        worker = self.expected.workers[lease]
        is_held = worker.told.held.get(number) in worker.maps
        with refused(None if is_held else UnknownVersionError):
            if does_switch:
                self.catalog.switched(lease, number, 1.0)
            else:
                self.catalog.not_switched(lease, number, "because")
        if is_held and does_switch:
            worker.runs = number

    @has_workers
    @rule(lease=LEASE, back=NUMBERS)
    def release(self, lease: int, back: int) -> None:
        """A version that it does not run, or one that it does not have."""
        worker = self.expected.workers[lease]
        number = max(worker.told.held) + 1 - back
        if number != worker.runs:
            self.released(lease, number)

    def released(self, lease: int, number: int) -> None:
        worker = self.expected.workers[lease]
        uid = worker.told.held.get(number)
        with refused(None if uid in worker.maps else UnknownVersionError):
            actions = self.catalog.released(lease, number)
        if uid in worker.maps:
            worker.maps.discard(uid or 0)
            self.took(actions)

    @has_workers
    @rule(lease=LEASE)
    def detach(self, lease: int) -> None:
        del self.expected.workers[lease]
        self.took(self.catalog.detach(lease))
        assert self.catalog.detach(lease) == []

    @rule(pids=st.sets(PIDS), does_happen=SELDOM)
    def processes_end(self, pids: set[int], does_happen: bool) -> None:
        if not does_happen:
            return
        self.expected.end(pids)
        self.took(self.catalog.processes_ended({key(pid) for pid in pids}))

    # --- the daemon dies -------------------------------------------------------------------

    @rule(does_happen=SELDOM, aside=st.frozensets(NAMES) | st.just(frozenset()))
    def die_and_be_followed(self, does_happen: bool, aside: frozenset[str]) -> None:
        """SIGKILL. The next one has what was written down, and nothing else. aside: what it cannot
        serve."""
        if not does_happen:
            return
        after = state.decode(state.encode(self.written))
        assert after == self.written
        self.forgotten |= {u for told in self.expected.unloaded for u in told.held.values()}
        self.expected.die(aside)
        self.entries = {kept.name: kept for kept in after.models if kept.name in aside}
        served = [adopted(kept) for kept in after.models if kept.name not in aside]
        left = [Aside(kept.name, kept.owner_uid, "", ()) for kept in self.entries.values()]
        self.catalog = Catalog(self.bounds())
        self.catalog.adopt(served, after.last_uid, left, after.done)
        assert self.captured() == self.written
        live = {name: told.live for name, told in self.expected.models.items()}
        assert {name: m.live.number for name, m in self.catalog.models.items()} == live

    @precondition(lambda machine: machine.expected.aside)
    @rule(name=NAMES)
    def unload_what_is_set_aside(self, name: str) -> None:
        if (told := self.expected.aside.pop(name, None)) is not None:
            [action] = self.catalog.unload(name)
            assert isinstance(action, GiveUp)
            self.forgotten |= set(told.held.values())

    @precondition(lambda machine: machine.expected.away)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """A worker says what it maps; so long as nobody had to stop waiting, all of it is there."""
        away = data.draw(st.sampled_from(self.expected.away))
        lease = self.attached(away.name, away.pid)
        if lease is None:
            return
        self.expected.away.remove(away)
        worker = self.expected.workers[lease]
        by_uid = {uid: number for number, uid in worker.told.held.items()}
        known = [uid for uid in away.maps if uid in by_uid]
        found = self.catalog.resume(lease, away.maps)
        if not known or known[0] != away.maps[0]:
            assert found == []
            return
        assert found == [by_uid[uid] for uid in known]
        worker.maps, worker.runs = set(known), by_uid[known[0]]

    @rule()
    def everybody_had_the_time_to_return(self) -> None:
        self.expected.awaited.clear()
        self.took(self.catalog.everybody_returned())

    # --- what is always so -----------------------------------------------------------------

    def teardown(self) -> None:
        """When everybody has left and all is unloaded, all memory was freed, once."""
        if not hasattr(self, "expected"):  # hypothesis looked at the class only
            return
        for name in list(self.expected.staged):
            del self.expected.staged[name]
            self.catalog.abort(name)
        for name in list(self.expected.models):
            self.unload(name)
        for name in list(self.expected.aside):
            self.unload_what_is_set_aside(name)
        for lease in list(self.expected.workers):
            self.detach(lease)
        assert self.freed | self.forgotten == self.published
        assert not self.catalog.leases


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        CatalogMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=CHECKS,
        ),
    )


def test_whatever_happens_in_whatever_order_the_catalog_does_what_it_should() -> None:
    run(examples=150, steps=60)


@pytest.mark.stress
def test_whatever_happens_for_a_long_time_the_catalog_does_what_it_should() -> None:
    run(examples=800, steps=100)
