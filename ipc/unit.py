"""In which systemd unit a process is, from its cgroup. Knows no rules.

Read as systemd itself reads it: past the leading slices, the next part of the path is the unit. So
what a user's own manager starts (user.slice/user-1000.slice/user@1000.service/evil.service) is in
user@1000.service, whatever it calls itself: a path below system.slice is root's to make.
"""

import os
import re
from pathlib import Path

import msgspec

from weightd.ipc.peer import Process

PROC = Path("/proc")
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.(service|scope|slice)")
_MAX_NBYTES = 64 * 1024


class Membership(msgspec.Struct, frozen=True):
    """unit: '' when the process is in none, or it is not known. fault: why it is not known."""

    unit: str = ""
    fault: str = ""


def unit_of(process: Process, proc: Path = PROC) -> Membership:
    """The unit of a process that is held by its pidfd. That it lives after the reading proves that
    what was read is its own, and not of another process with its number."""
    path = f"{proc}/{process.pid}/cgroup"
    try:
        text = _read(path)
    except FileNotFoundError:
        if not process.is_alive():
            return Membership(fault="the process has ended")
        hint = "is /proc mounted with hidepid, or ProtectProc= set?"
        return Membership(fault=f"the daemon does not see {path} ({hint})")
    except OSError as error:
        return Membership(fault=f"the daemon cannot read {path}: {error.strerror}")
    if not process.is_alive():
        return Membership(fault="the process has ended")
    return unit_in(text)


def blindness(proc: Path = PROC) -> str:
    """Why the units of other users' processes cannot be read here; '' when they can."""
    path = proc / "1" / "cgroup"
    try:
        path.read_bytes()
    except OSError as error:
        return f"the daemon cannot read {path}: {error.strerror} (hidepid, or ProtectProc=)"
    return ""


def _read(path: str) -> str:
    """Not by pathlib and open(), which take longer than the kernel: a worker waits for this."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MAX_NBYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)


def unit_in(text: str) -> Membership:
    """The unit that the lines of a cgroup file tell. There may be two hierarchies that systemd
    keeps, with the same paths: that of cgroup v2, and `name=systemd` of v1."""
    units = set()
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) or controllers == "name=systemd":
            if ".." in path.split("/"):
                return Membership(fault="it is outside the daemon's cgroup namespace")
            units.add(unit_of_path(path))
    units.discard("")
    if len(units) > 1:
        return Membership(fault=f"its cgroups name two units: {', '.join(sorted(units))}")
    return Membership(unit=units.pop() if units else "")


def unit_of_path(path: str) -> str:
    """'/system.slice/a.service/below' -> 'a.service'; '' when it is in no service and no scope."""
    for part in filter(None, path.split("/")):
        name = part.removeprefix("_")  # systemd's mark on what would look like a file of the kernel
        match = _NAME.fullmatch(name)
        if match is None:
            return ""
        if match[1] != "slice":
            return name
    return ""
