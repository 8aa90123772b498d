"""roles.py: which request needs which role, and who has it."""

from typing import get_args

import pytest

from weightd.daemon.roles import ROLES, Role, Roles, name_of, roles_of
from weightd.errors import RoleError, SettingsError
from weightd.ipc import protocol

ROOT, DAEMON, OWNER, OTHER = 0, 900, 1000, 1001
ADMINS = frozenset({ROOT, DAEMON})
BY_DEFAULT = Roles(ADMINS)
USERS = 100  # a group that has no rights
REQUESTS: dict[type[protocol.Message], protocol.Message] = {
    type(request): request
    for request in (
        protocol.CurrentPid(),
        protocol.Status(),
        protocol.Load("m", 1),
        protocol.Unload("m"),
        protocol.Allow("m", (1,)),
        protocol.Deny("m", ("uid:1",)),
        protocol.Revoke("m"),
        protocol.Publish("m", 1),
        protocol.Update("m", 1),
        protocol.Rollback("m"),
        protocol.Cancel("m"),
        protocol.Verify("m"),
        protocol.Shutdown(),
    )
}
EACH = pytest.mark.parametrize("kind", ROLES, ids=lambda kind: kind.__name__)


def may(
    kind: type[protocol.Message],
    uid: int,
    owner_uid: int | None = OWNER,
    *,
    roles: Roles = BY_DEFAULT,
    gid: int = USERS,
) -> bool:
    try:
        roles.check(REQUESTS[kind], uid, gid, owner_uid)
    except RoleError:
        return False
    return True


def test_every_request_of_the_control_plane_has_a_role() -> None:
    assert set(ROLES) == set(get_args(protocol.ControlRequest)) == set(REQUESTS)


def test_what_changes_a_model_is_never_for_anyone() -> None:
    harmless = {protocol.CurrentPid, protocol.Status, protocol.Load}
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
        BY_DEFAULT.check(REQUESTS[protocol.Allow], OTHER, USERS, OWNER)
    with pytest.raises(RoleError, match=r"for the model's owner \(nobody\)"):
        BY_DEFAULT.check(REQUESTS[protocol.Allow], OTHER, USERS, None)
    with pytest.raises(RoleError, match=r"shutdown is for admins \(uid 0, 900\); uid 1000"):
        BY_DEFAULT.check(REQUESTS[protocol.Shutdown], OWNER, USERS, None)


# --- roles of the settings ---------------------------------------------------------------


class Town:
    """An account database with alice, bob, and the group ops, whose list names bob and a ghost."""

    def uid_of(self, user: str) -> int:
        return {"alice": 1000, "bob": 1001}[user]

    def gid_of(self, group: str) -> int:
        return {"ops": 27}[group]

    def members_of(self, group: str) -> frozenset[int]:
        return {"ops": frozenset({1001})}[group]


def test_admins_are_named_by_user_number_and_group() -> None:
    roles = roles_of(["alice", 1005, "@ops"], {}, DAEMON, Town())
    assert roles.admins == {ROOT, DAEMON, 1000, 1005, 1001}
    assert may(protocol.Shutdown, 1001, roles=roles)
    assert may(protocol.Shutdown, 4444, roles=roles, gid=27)  # its first group, says the kernel
    assert not may(protocol.Shutdown, 4444, roles=roles)


def test_the_settings_change_which_role_a_request_needs() -> None:
    changed = {"load": "admin", "current_pid": "owner", "shutdown": "anyone"}
    roles = roles_of([], changed, DAEMON, Town())
    assert not may(protocol.Load, OTHER, roles=roles)
    assert may(protocol.Shutdown, OTHER, roles=roles)
    assert not may(protocol.CurrentPid, OTHER, roles=roles)
    untouched = [kind for kind in ROLES if name_of(kind) not in changed]
    assert {kind: roles.table[kind] for kind in untouched} == {k: ROLES[k] for k in untouched}


@pytest.mark.parametrize(
    ("admins", "roles", "says"),
    [
        (["mallory"], {}, "no user 'mallory'"),
        (["@wheel"], {}, "no group '@wheel'"),
        ([65534], {}, "nobody in particular"),
        ([], {"reboot": "admin"}, "no request 'reboot'; there are: current_pid, status, load,"),
        ([], {"load": "root"}, "load: no role 'root'; there are: anyone, owner, admin"),
    ],
)
def test_what_the_machine_does_not_know_is_refused_by_name(
    admins: list[str | int], roles: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        roles_of(admins, roles, DAEMON, Town())


def test_to_verify_everything_is_for_admins() -> None:
    BY_DEFAULT.check(protocol.Verify(), DAEMON, USERS, None)
    with pytest.raises(RoleError):
        BY_DEFAULT.check(protocol.Verify(), OWNER, USERS, None)
