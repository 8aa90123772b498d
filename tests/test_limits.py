"""limits.py: how much a user, a process or a model may have, and what a refusal says."""

import pytest

from tests.test_catalog import attached, freed, key, loaded, publish
from weightd.daemon.limits import BURST_S, Requests
from weightd.errors import LimitError

USER, OTHER = 1000, 1001


def count(requests: Requests, uid: int, now_s: float, *, is_admin: bool = False) -> int:
    """How many requests the user may make at this moment."""
    return sum(requests.take(uid, now_s, is_admin=is_admin) for _ in range(10_000))


def test_a_user_has_so_many_requests_a_second_and_two_seconds_at_once() -> None:
    requests = Requests(100)
    assert count(requests, USER, 0.0) == 100 * BURST_S
    assert count(requests, USER, 0.5) == 50
    assert count(requests, USER, 0.5) == 0
    assert count(requests, USER, 1e6) == 100 * BURST_S


def test_a_user_who_floods_takes_nothing_from_another() -> None:
    requests = Requests(100)
    count(requests, USER, 0.0)
    assert count(requests, OTHER, 0.0) == 100 * BURST_S
    assert count(requests, 0, 0.0, is_admin=True) == 10 * 100 * BURST_S


def test_a_refusal_names_the_user_and_the_setting() -> None:
    requests = Requests(1)
    count(requests, USER, 0.0)
    with pytest.raises(LimitError, match=r"uid 1000 ask too often \(requests_per_s_per_uid: 1\)"):
        requests.check(USER, 0.0, is_admin=False)


def test_many_users_take_bounded_memory() -> None:
    requests = Requests(1)
    for uid in range(70_000):
        requests.take(uid, 0.0, is_admin=False)
    assert len(requests._buckets) == 4096


# --- versions ----------------------------------------------------------------------------


def test_stuck_workers_end_publishing_before_memory_ends_and_are_named() -> None:
    catalog = loaded(keep=2, versions_held=4)
    attached(catalog, 41)  # never switches
    for pid in (42, 43):
        publish(catalog)
        attached(catalog, pid)
    publish(catalog)
    with pytest.raises(LimitError) as caught:
        catalog.stage_next("m")
    text = str(caught.value)
    assert "'m' has 4 versions in memory that cannot go" in text
    assert "process 41 holds 1, process 42 holds 2, process 43 holds 3" in text
    assert "weightd revoke m PID --kill" in text
    catalog.processes_ended({key(41)})
    assert catalog.stage_next("m").number == 5


def test_what_the_next_publish_frees_is_not_counted() -> None:
    catalog = loaded(keep=2, versions=2, versions_held=3)
    for _ in range(10):
        assert freed(publish(catalog))


def test_many_laggards_are_named_in_part() -> None:
    catalog = loaded(keep=1, versions_held=2)
    for pid in range(100, 120):
        attached(catalog, pid)
    publish(catalog)
    attached(catalog, 200)
    with pytest.raises(LimitError, match=r"process 107 holds 1, and 12 more\."):
        catalog.stage_next("m")
