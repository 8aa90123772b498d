"""Who may ask for what: one table, which the settings may change. Identity is the kernel's; here it
becomes a right."""

import re
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Protocol

import msgspec

from weightd.errors import RoleError, SettingsError
from weightd.ipc import protocol
from weightd.ipc.peer import NOBODY_UID


class Role(Enum):
    ANYONE = auto()  # whoever the control socket's mode lets in
    OWNER = auto()  # the user who loaded the model; an admin too
    ADMIN = auto()  # root, the daemon's own user, and whom the settings name


ROLES: dict[type[protocol.Message], Role] = {
    protocol.CurrentPid: Role.ANYONE,
    protocol.Status: Role.ANYONE,
    protocol.Counters: Role.ANYONE,
    protocol.Load: Role.ANYONE,  # whoever loads a model owns it
    protocol.Unload: Role.OWNER,
    protocol.Allow: Role.OWNER,
    protocol.Deny: Role.OWNER,
    protocol.Revoke: Role.OWNER,
    protocol.Publish: Role.OWNER,
    protocol.Update: Role.OWNER,
    protocol.Rollback: Role.OWNER,
    protocol.Cancel: Role.OWNER,
    protocol.Verify: Role.OWNER,  # of all models at once: an admin
    protocol.Upgrade: Role.ADMIN,
    protocol.Shutdown: Role.ADMIN,
}


def name_of(request: type[protocol.Message]) -> str:
    """What a request is called in settings and in the audit log: CurrentPid is current_pid."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", request.__name__).lower()


class Roles(msgspec.Struct, frozen=True):
    """Who has which role, and which request needs which. admins: uids; admin_gids: groups whose
    members, as the kernel tells the first group of a process, are admins too."""

    admins: frozenset[int]
    admin_gids: frozenset[int] = frozenset()
    table: Mapping[type[protocol.Message], Role] = msgspec.field(default_factory=lambda: ROLES)

    def is_admin(self, uid: int, gid: int) -> bool:
        return uid in self.admins or gid in self.admin_gids

    def check(self, request: protocol.Message, uid: int, gid: int, owner_uid: int | None) -> None:
        """Raise RoleError unless this user may make this request. owner_uid: of the model it names,
        None when there is no such model (which the catalog then says)."""
        role = self.table[type(request)]
        if role is Role.ANYONE or self.is_admin(uid, gid):
            return
        name = name_of(type(request))
        if role is Role.ADMIN:
            raise RoleError(f"{name} is for admins ({self._admins()}); uid {uid} is none")
        if uid != owner_uid:
            owner = "nobody" if owner_uid is None else f"uid {owner_uid}"
            raise RoleError(
                f"{name} is for the model's owner ({owner}) and admins; uid {uid} is none"
            )

    def _admins(self) -> str:
        gids = f", group {_listed(self.admin_gids)}" if self.admin_gids else ""
        return f"uid {_listed(self.admins)}{gids}"


class Members(Protocol):
    """The machine's users and groups; KeyError when there is none of a name."""

    def uid_of(self, user: str) -> int: ...

    def gid_of(self, group: str) -> int: ...

    def members_of(self, group: str) -> frozenset[int]: ...


def roles_of(
    admins: Iterable[str | int], roles: Mapping[str, str], daemon_uid: int, accounts: Members
) -> Roles:
    """What the settings say. Root and the daemon's own user are always admins. SettingsError names
    what there is."""
    uids, gids = {0, daemon_uid}, set()
    for admin in admins:
        try:
            if isinstance(admin, int):
                uids.add(admin)
            elif admin.startswith("@"):
                gids.add(accounts.gid_of(admin[1:]))
                uids |= accounts.members_of(admin[1:])
            else:
                uids.add(accounts.uid_of(admin))
        except KeyError:
            kind = "group" if str(admin).startswith("@") else "user"
            raise SettingsError(
                f"admins: this machine has no {kind} {admin!r}; write a user, a uid or @group"
            ) from None
    if NOBODY_UID in uids | gids:
        raise SettingsError(f"admins: uid and gid {NOBODY_UID} stand for nobody in particular")
    return Roles(frozenset(uids), frozenset(gids), _table(roles))


def _table(roles: Mapping[str, str]) -> dict[type[protocol.Message], Role]:
    requests = {name_of(kind): kind for kind in ROLES}
    table = dict(ROLES)
    for name, role in roles.items():
        if name not in requests:
            raise SettingsError(f"roles: no request {_listing(name, requests)}")
        if role.upper() not in Role.__members__:
            known = [member.lower() for member in Role.__members__]
            raise SettingsError(f"roles.{name}: no role {_listing(role, known)}")
        table[requests[name]] = Role[role.upper()]
    return table


def _listing(word: str, known: Iterable[str]) -> str:
    from weightd.ipc.faults import near  # here: a daemon whose settings are right needs none

    return f"{word!r}{near(word, known)}; there are: {', '.join(known)}"


def _listed(ids: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(ids)))
