"""Who may ask for what: one table. Identity is the kernel's; here it becomes a right."""

from enum import Enum, auto

from weightd.errors import RoleError
from weightd.ipc import protocol


class Role(Enum):
    ANYONE = auto()  # whoever the control socket's mode lets in
    OWNER = auto()  # the user who loaded the model; an admin too
    ADMIN = auto()  # the daemon's own user and root


ROLES: dict[type[protocol.Message], Role] = {
    protocol.CurrentPid: Role.ANYONE,
    protocol.Status: Role.ANYONE,
    protocol.Counters: Role.ANYONE,
    protocol.Load: Role.ANYONE,  # whoever loads a model owns it
    protocol.Unload: Role.OWNER,
    protocol.Allow: Role.OWNER,
    protocol.Revoke: Role.OWNER,
    protocol.Publish: Role.OWNER,
    protocol.Update: Role.OWNER,
    protocol.Rollback: Role.OWNER,
    protocol.Cancel: Role.OWNER,
    protocol.Shutdown: Role.ADMIN,
}


def check(
    request: protocol.Message, uid: int, owner_uid: int | None, admins: frozenset[int]
) -> None:
    """Raise RoleError unless this user may make this request. owner_uid: of the model it names,
    None when there is no such model (which the catalog then says)."""
    role = ROLES[type(request)]
    if role is Role.ANYONE or uid in admins:
        return
    name = type(request).__name__.lower()
    if role is Role.ADMIN:
        raise RoleError(f"{name} is for admins (uid {_listed(admins)}); uid {uid} is none")
    if uid != owner_uid:
        owner = "nobody" if owner_uid is None else f"uid {owner_uid}"
        raise RoleError(f"{name} is for the model's owner ({owner}) and admins; uid {uid} is none")


def _listed(uids: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(uids)))
