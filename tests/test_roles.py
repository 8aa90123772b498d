"""roles.py: which request needs which role, and who has it."""

from typing import get_args

import pytest

from weightd.daemon.roles import ROLES, Role, check
from weightd.errors import RoleError
from weightd.ipc import protocol

ROOT, DAEMON, OWNER, OTHER = 0, 900, 1000, 1001
ADMINS = frozenset({ROOT, DAEMON})
REQUESTS: dict[type[protocol.Message], protocol.Message] = {
    type(request): request
    for request in (
        protocol.CurrentPid(),
        protocol.Status(),
        protocol.Counters(),
        protocol.Load("m", 1),
        protocol.Unload("m"),
        protocol.Allow("m", (1,)),
        protocol.Revoke("m"),
        protocol.Publish("m", 1),
        protocol.Update("m", 1),
        protocol.Rollback("m"),
        protocol.Cancel("m"),
        protocol.Shutdown(),
    )
}
EACH = pytest.mark.parametrize("kind", ROLES, ids=lambda kind: kind.__name__)


def may(kind: type[protocol.Message], uid: int, owner_uid: int | None = OWNER) -> bool:
    try:
        check(REQUESTS[kind], uid, owner_uid, ADMINS)
    except RoleError:
        return False
    return True


def test_every_request_of_the_control_plane_has_a_role() -> None:
    assert set(ROLES) == set(get_args(protocol.ControlRequest)) == set(REQUESTS)


def test_what_changes_a_model_is_never_for_anyone() -> None:
    harmless = {protocol.CurrentPid, protocol.Status, protocol.Counters, protocol.Load}
    assert {kind for kind, role in ROLES.items() if role is Role.ANYONE} == harmless


@EACH
@pytest.mark.parametrize("uid", ADMINS)
def test_admins_may_everything(kind: type[protocol.Message], uid: int) -> None:
    assert may(kind, uid)
    assert may(kind, uid, None)


@EACH
def test_an_owner_may_all_but_what_is_for_admins(kind: type[protocol.Message]) -> None:
    assert may(kind, OWNER) is (ROLES[kind] is not Role.ADMIN)


@EACH
def test_others_may_only_what_anyone_may(kind: type[protocol.Message]) -> None:
    assert may(kind, OTHER) is (ROLES[kind] is Role.ANYONE)


@EACH
def test_a_model_that_is_not_there_has_no_owner(kind: type[protocol.Message]) -> None:
    assert may(kind, OWNER, None) is (ROLES[kind] is Role.ANYONE)


def test_a_refusal_says_whose_right_it_is() -> None:
    with pytest.raises(RoleError, match=r"allow is for the model's owner \(uid 1000\) and admins"):
        check(REQUESTS[protocol.Allow], OTHER, OWNER, ADMINS)
    with pytest.raises(RoleError, match=r"for the model's owner \(nobody\)"):
        check(REQUESTS[protocol.Allow], OTHER, None, ADMINS)
    with pytest.raises(RoleError, match=r"shutdown is for admins \(uid 0, 900\); uid 1000"):
        check(REQUESTS[protocol.Shutdown], OWNER, None, ADMINS)
