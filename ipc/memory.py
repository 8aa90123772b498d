"""How much memory may be taken, asked before it is taken.

A memfd that outgrows its cgroup is not ENOSPC but the OOM killer, and memfds ignore the size of
/dev/shm. So whoever allocates asks here first.
"""

from pathlib import Path

import msgspec

from weightd.errors import InsufficientMemoryError

MIB = 1024 * 1024
_UNLIMITED = 2**60  # cgroup v1 says "no limit" with a number of this size


class Limit(msgspec.Struct, frozen=True):
    """The tightest limit in force: bytes left below it, and its name for people."""

    nbytes: int
    name: str


def available(budget_nbytes: int | None = None) -> Limit:
    """The least of the machine's free memory, the cgroup's and the configured budget's rest."""
    limits = [Limit(_machine_nbytes(), "free memory of the machine (MemAvailable)")]
    limits += _cgroup_limits(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    if budget_nbytes is not None:
        limits.append(Limit(max(0, budget_nbytes), "memory budget of the daemon"))
    return min(limits, key=lambda limit: limit.nbytes)


def require(nbytes: int, purpose: str, budget_nbytes: int | None = None) -> None:
    """Raise InsufficientMemoryError unless `nbytes` may be taken now."""
    limit = available(budget_nbytes)
    if nbytes > limit.nbytes:
        raise InsufficientMemoryError(
            f"{purpose} needs {nbytes / MIB:.1f} MiB and the {limit.name} leaves "
            f"{limit.nbytes / MIB:.1f} MiB: {(nbytes - limit.nbytes) / MIB:.1f} MiB are missing; "
            "unload a model, keep fewer versions, or raise the limit"
        )


def _machine_nbytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _UNLIMITED


def _cgroup_limits(membership: str, root: Path) -> list[Limit]:
    """The limits of this process's memory cgroup and of all above it, of either version."""
    limits: list[Limit] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases, names = [root, root / "unified"], ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            bases, names = [root / "memory"], ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for base in bases:
            limits += _limits_upwards(base, path, *names)
    return limits


def _limits_upwards(base: Path, path: str, limit_name: str, usage_name: str) -> list[Limit]:
    limits: list[Limit] = []
    group = base / path.lstrip("/")
    while True:
        left = _left_in(group, limit_name, usage_name)
        if left is not None:
            limits.append(Limit(left, f"memory limit of cgroup {group.relative_to(base)}"))
        if group == base or base not in group.parents:
            return limits
        group = group.parent


def _left_in(group: Path, limit_name: str, usage_name: str) -> int | None:
    try:
        limit_text = (group / limit_name).read_text().strip()
        if limit_text == "max" or int(limit_text) >= _UNLIMITED:
            return None
        usage = int((group / usage_name).read_text())
        reclaimable = _inactive_file_nbytes(group)
    except (OSError, ValueError):
        return None  # no such file: no such limit
    return max(0, int(limit_text) - usage + reclaimable)


def _inactive_file_nbytes(group: Path) -> int:
    """Page cache that the kernel drops before it kills anybody."""
    for line in (group / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
