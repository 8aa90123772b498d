"""The machine's users and groups: names become numbers here, and nowhere else.

A look-up may ask the network (LDAP), so it is made when settings are read or by a client, never
while the daemon serves.
"""

import grp
import pwd


class Accounts:
    """The account database. KeyError when it has no such name."""

    def uid_of(self, user: str) -> int:
        return pwd.getpwnam(user).pw_uid

    def gid_of(self, group: str) -> int:
        return grp.getgrnam(group).gr_gid

    def members_of(self, group: str) -> frozenset[int]:
        """The uids of those whom a group lists, as far as they exist. Whose first group it is, it
        does not list: the kernel tells that of a process."""
        found = set()
        for name in grp.getgrnam(group).gr_mem:
            try:
                found.add(self.uid_of(name))
            except KeyError:
                continue
        return frozenset(found)


def user_name(uid: int) -> str:
    """What people call a user; the number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """What people call a group; the number where it has no name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
