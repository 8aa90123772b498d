"""catalog.py and model.py: the rules of versions and leases, without any I/O."""

import itertools
from typing import Any

import pytest

from weightd.daemon.bounds import Bounds
from weightd.daemon.catalog import Catalog
from weightd.daemon.limits import GRANTS_PER_PROCESS, LEASES_PER_PROCESS
from weightd.daemon.model import (
    TRANSITIONS,
    Action,
    Event,
    Free,
    Lease,
    Notify,
    TellRevoked,
    Version,
    VersionState,
)
from weightd.daemon.policy import Guest
from weightd.daemon.rights import wanted
from weightd.errors import (
    BadHandleError,
    BusyError,
    IllegalTransitionError,
    LimitError,
    ModelExistsError,
    NotAllowedError,
    UnknownModelError,
    UnknownVersionError,
    WeightdError,
)
from weightd.ipc.peer import Key

HANDLE = 77
PAIRS = list(itertools.product(VersionState, Event))


def key(pid: int) -> Key:
    return Key("test", pid, 1)


def guest(pid: int, uid: int = 0) -> Guest:
    return Guest(pid, uid, uid)


def loaded(*, keep: int = 2, versions: int = 1, **options: Any) -> Catalog:
    """A catalog with model m and so many versions, the last one live."""
    catalog = Catalog(Bounds(keep=keep, **options))
    catalog.stage_new("m")
    catalog.publish("m", 0)
    for _ in range(versions - 1):
        publish(catalog)
    return catalog


def publish(catalog: Catalog) -> list[Action]:
    catalog.stage_next("m")
    return catalog.publish("m", 0)


def attached(catalog: Catalog, pid: int = 1) -> Lease:
    catalog.allow("m", {key(pid): pid}, HANDLE)
    return catalog.attach("m", key(pid), guest(pid), None)


def freed(actions: list[Action]) -> list[int]:
    return [action.version for action in actions if isinstance(action, Free)]


def held(catalog: Catalog) -> list[int]:
    return sorted(catalog.model("m").versions)


# --- states ------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), sorted(TRANSITIONS, key=str))
def test_each_transition_of_the_table_is_what_happens(state: VersionState, event: Event) -> None:
    version = Version(1, 1, state)
    version.apply(event)
    assert version.state is TRANSITIONS[state, event]


@pytest.mark.parametrize(("state", "event"), [p for p in PAIRS if p not in TRANSITIONS])
def test_each_other_transition_is_refused_and_changes_nothing(
    state: VersionState, event: Event
) -> None:
    version = Version(1, 7, state)
    with pytest.raises(IllegalTransitionError, match=f"version 7 is {state.name}.*{event.name}"):
        version.apply(event)
    assert version.state is state


# --- publish and keep --------------------------------------------------------------------


def test_who_is_allowed_again_and_again_keeps_the_newest_handles() -> None:
    catalog, key = loaded(), Key("test", 7, 7)
    for handle in range(1, 100):
        catalog.allow("m", {key: 7}, handle)
    handles = [grant.handle for grant in catalog.model("m").grants]
    assert handles == list(range(100 - GRANTS_PER_PROCESS, 100))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_versions_that_were_live_are_kept(keep: int) -> None:
    catalog = loaded(keep=keep, versions=5)
    assert held(catalog) == list(range(6 - keep, 6))
    assert catalog.model("m").live.number == 5


def test_keep_one_frees_the_old_version_at_publish() -> None:
    assert freed(publish(loaded(keep=1))) == [1]


def test_a_leased_version_is_freed_when_its_last_lease_ends_and_not_before() -> None:
    catalog = loaded(keep=1)
    first, second = attached(catalog, 1), attached(catalog, 2)
    assert freed(publish(catalog)) == []
    assert freed(catalog.detach(first.id)) == []
    assert freed(catalog.detach(second.id)) == [1]
    assert catalog.detach(second.id) == []  # it ended already


def test_a_failed_publish_consumes_no_number_and_changes_nothing() -> None:
    catalog = loaded()
    assert catalog.stage_next("m").number == 2
    catalog.abort("m")
    assert held(catalog) == [1]
    assert catalog.stage_next("m").number == 2


def test_a_failed_load_leaves_no_model() -> None:
    catalog = Catalog()
    catalog.stage_new("m")
    catalog.abort("m")
    with pytest.raises(UnknownModelError, match="none"):
        catalog.model("m")
    assert catalog.stage_new("m").number == 1


def test_a_number_is_never_used_again() -> None:
    catalog = loaded(keep=1, versions=3)
    attached(catalog)
    publish(catalog)
    catalog.rollback("m", 3)  # frees 4
    assert held(catalog) == [3]
    assert catalog.stage_next("m").number == 5


def test_a_model_loaded_again_under_its_name_shares_no_uid_with_the_old_one() -> None:
    catalog = loaded()
    lease = attached(catalog)
    old = catalog.model("m").live
    catalog.unload("m")
    catalog.stage_new("m")
    catalog.publish("m", 0)
    assert catalog.model("m").live.uid != old.uid
    assert catalog.detach(lease.id) == [Free("m", 1, old.uid)]
    assert held(catalog) == [1]


def test_one_model_is_staged_by_one_request_at_a_time() -> None:
    catalog = loaded()
    catalog.stage_next("m")
    with pytest.raises(BusyError, match="weightd cancel m"):
        catalog.stage_next("m")
    with pytest.raises(BusyError):
        catalog.unload("m")
    with pytest.raises(ModelExistsError, match="weightd publish m"):
        catalog.stage_new("m")


def test_a_new_version_is_told_to_every_lease_that_may_have_it() -> None:
    catalog = loaded()
    one, two = attached(catalog, 1), attached(catalog, 2)
    catalog.revoke("m", {2})
    assert publish(catalog) == [Notify(one.id, 2)]
    assert (one.lag, two.lag) == ("notified", "revoked")


# --- rollback ----------------------------------------------------------------------------


def test_rollback_goes_to_the_one_that_was_live_before_and_forth_again() -> None:
    catalog = loaded(keep=3, versions=3)
    for expected in (2, 3, 2):
        catalog.rollback("m", None)
        assert catalog.model("m").live.number == expected


def test_rollback_by_default_skips_what_is_freed() -> None:
    with pytest.raises(UnknownVersionError, match="only 2 is held"):
        loaded(keep=1, versions=2).rollback("m", None)


@pytest.mark.parametrize(
    ("number", "error"),
    [(1, UnknownVersionError), (9, UnknownVersionError), (3, IllegalTransitionError)],
)
def test_rollback_to_a_freed_unknown_or_live_version_is_refused_and_changes_nothing(
    number: int, error: type[WeightdError]
) -> None:
    catalog = loaded(versions=3)
    with pytest.raises(error):
        catalog.rollback("m", number)
    assert catalog.model("m").live.number == 3
    assert [v.state.name for v in catalog.model("m").versions.values()] == ["HELD", "LIVE"]


def test_a_version_held_by_a_lease_alone_can_be_rolled_back_to() -> None:
    catalog = loaded(keep=1)
    attached(catalog)
    publish(catalog)
    catalog.rollback("m", None)
    assert held(catalog) == [1]


def test_a_staged_version_cannot_be_rolled_back_to() -> None:
    catalog = loaded()
    catalog.stage_next("m")
    with pytest.raises(UnknownVersionError):
        catalog.rollback("m", 2)


# --- leases ------------------------------------------------------------------------------


def test_a_switch_holds_both_versions_until_the_old_one_is_released() -> None:
    catalog = loaded(keep=1)
    lease = attached(catalog)
    publish(catalog)
    assert catalog.pull(lease.id).number == 2
    assert lease.lag == "switching"
    catalog.switched(lease.id, 2, 8.5)
    assert (lease.version, lease.lag, lease.switches, lease.last_pause_us) == (2, "", 1, 8.5)
    assert freed(catalog.released(lease.id, 1)) == [1]


def test_a_worker_that_cannot_switch_is_named_with_its_reason() -> None:
    catalog = loaded()
    lease = attached(catalog)
    publish(catalog)
    catalog.pull(lease.id)
    catalog.not_switched(lease.id, 2, "no memory")
    assert (lease.version, lease.lag) == (1, "stays on 1: no memory")


def test_a_lease_speaks_only_of_versions_that_it_holds() -> None:
    catalog = loaded(versions=2)
    lease = attached(catalog)
    for number in (1, 3):
        with pytest.raises(UnknownVersionError):
            catalog.released(lease.id, number)
        with pytest.raises(UnknownVersionError):
            catalog.switched(lease.id, number, 0)
        with pytest.raises(UnknownVersionError):
            catalog.held_by(lease.id, number)
    assert (lease.version, catalog.held_by(lease.id, 2).number) == (2, 2)


def test_unload_tells_the_leases_and_frees_what_nobody_holds() -> None:
    catalog = loaded(versions=2)
    lease = attached(catalog)
    actions = catalog.unload("m")
    assert TellRevoked(lease.id, "the model was unloaded") in actions
    assert freed(actions) == [1]
    with pytest.raises(NotAllowedError):
        catalog.pull(lease.id)
    assert freed(catalog.released(lease.id, 2)) == [2]
    assert catalog.detach(lease.id) == []


def test_revoke_ends_whitelist_and_new_versions_but_not_what_is_mapped() -> None:
    catalog = loaded(keep=1)
    lease = attached(catalog)
    ended, actions = catalog.revoke("m", set())
    assert (ended, actions) == ({1}, [TellRevoked(lease.id, "the right to this model was revoked")])
    assert freed(publish(catalog)) == []
    with pytest.raises(NotAllowedError):
        catalog.attach("m", key(1), guest(1), HANDLE)
    with pytest.raises(NotAllowedError):
        catalog.pull(lease.id)


def test_revoke_of_one_leaves_the_others_of_the_same_grant() -> None:
    catalog = loaded()
    catalog.allow("m", {key(1): 1, key(2): 2}, HANDLE)
    assert catalog.revoke("m", {1}) == ({1}, [])
    catalog.attach("m", key(2), guest(2), HANDLE)


def test_the_end_of_a_process_ends_its_entries_and_leases_in_every_model() -> None:
    catalog = loaded(keep=1)
    attached(catalog, 1), attached(catalog, 1), attached(catalog, 2)
    publish(catalog)
    assert freed(catalog.processes_ended({key(1)})) == []
    assert catalog.model("m").allowed_pids() == [2]
    assert freed(catalog.processes_ended({key(2)})) == [1]
    assert (catalog.leases, wanted(catalog.models.values(), catalog.leases)) == ({}, set())


def test_a_handle_is_for_its_processes_and_no_handle_is_for_all_that_are_whitelisted() -> None:
    catalog = loaded()
    catalog.allow("m", {key(1): 1}, HANDLE)
    catalog.attach("m", key(1), guest(1), HANDLE)
    with pytest.raises(BadHandleError):
        catalog.attach("m", key(1), guest(1), HANDLE + 1)
    with pytest.raises(NotAllowedError, match="weightd allow m 2"):
        catalog.attach("m", key(2), guest(2), HANDLE)


def test_a_process_and_a_user_have_a_limited_number_of_leases() -> None:
    catalog = loaded(leases_per_uid=LEASES_PER_PROCESS + 1)
    for _ in range(LEASES_PER_PROCESS):
        attached(catalog, 1)
    with pytest.raises(LimitError, match="process 1"):
        attached(catalog, 1)
    attached(catalog, 2)
    with pytest.raises(LimitError, match="leases_per_uid"):
        attached(catalog, 3)
