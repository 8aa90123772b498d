"""The shared memory that a process's cgroup is charged with, where that says something of the
process: nobody else may be in the cgroup.

Memory of a memfd is charged to the cgroup of whoever wrote it first, and stays charged there as
long as anybody maps it or holds its descriptor.
"""

from pathlib import Path

_KEYS = ("total_shmem", "shmem")  # v1 has both: with what is below, and without


def shmem_nbytes(
    pid: int, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Of the cgroup of process `pid`; None where it cannot be read, and where processes are in it
    that neither come from this one nor started it."""
    try:
        group = _memory_group((proc / str(pid) / "cgroup").read_text(), cgroups)
        if group is None or not _is_alone(pid, group, proc):
            return None
        return _shmem((group / "memory.stat").read_text())
    except (OSError, ValueError):
        return None


def _memory_group(membership: str, cgroups: Path) -> Path | None:
    """The folder of the memory cgroup, of either version; None for the root: all that is not in
    any other is there."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        name = path.lstrip("/")
        if "memory" in controllers.split(","):
            return cgroups / "memory" / name if name else None
        if controllers == "" and name and (cgroups / name / "memory.stat").exists():
            return cgroups / name
    return None


def _is_alone(pid: int, group: Path, proc: Path) -> bool:
    above = set(_line_of(pid, proc))
    others = map(int, (group / "cgroup.procs").read_text().split())
    return all(other in above or pid in _line_of(other, proc) for other in others)


def _line_of(pid: int, proc: Path) -> list[int]:
    """The process, its parent, and so on."""
    line: list[int] = []
    while pid > 0:
        line.append(pid)
        stat = (proc / str(pid) / "stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])  # its name, before that, may have spaces
    return line


def _shmem(stat: str) -> int | None:
    found = dict(line.split(" ", 1) for line in stat.splitlines())
    for key in _KEYS:
        if key in found:
            return int(found[key])
    return None
