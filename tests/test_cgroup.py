"""cgroup.py: what a cgroup's shared memory says of one process, and when it says nothing."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, running_daemon
from tests.helpers import wait_until
from tests.raw import raw_worker
from tests.scraping import running_exporter
from weightd.ipc import protocol
from weightd.ipc.cgroup import shmem_nbytes

V2 = "0::/system.slice/weightd.service\n"
V1 = "3:cpu,cpuacct:/\n2:memory:/weightd\n1:name=systemd:/x\n0::/\n"
KEEPER, DAEMON, STAGER, OTHER = 7, 8, 9, 10
PARENTS = {1: 0, KEEPER: 1, DAEMON: KEEPER, STAGER: DAEMON, OTHER: 1}
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Files as the kernel has them: a keeper, its daemon, its stager, and somebody else."""
    for pid, parent in PARENTS.items():
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (a name) of) S {parent} {pid} {pid} 0 -1\n")
    return tmp_path


def shmem(machine: Path, membership: str, group: str, stat: str, *pids: int) -> int | None:
    """What is found in a cgroup that has these processes."""
    (machine / "proc" / str(DAEMON) / "cgroup").write_text(membership)
    folder = machine / "cgroup" / group
    folder.mkdir(parents=True)
    (folder / "memory.stat").write_text(stat)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return shmem_nbytes(DAEMON, machine / "proc", machine / "cgroup")


def test_it_is_told_of_the_daemon_with_its_keeper_and_its_stagers(machine: Path) -> None:
    group, stat = "system.slice/weightd.service", "anon 1\nfile 2\nshmem 4096\n"
    assert shmem(machine, V2, group, stat, DAEMON, KEEPER, STAGER) == 4096


def test_cgroups_of_version_1_are_read_with_those_below(machine: Path) -> None:
    stat = "cache 5\nshmem 1\ntotal_cache 9\ntotal_shmem 8192\n"
    assert shmem(machine, V1, "memory/weightd", stat, DAEMON) == 8192


def test_nothing_is_told_where_others_are_in_the_cgroup(machine: Path) -> None:
    group = "system.slice/weightd.service"
    assert shmem(machine, V2, group, "shmem 4096\n", DAEMON, OTHER) is None


@pytest.mark.parametrize("membership", ["0::/\n", "2:memory:/\n0::/\n", "0::/elsewhere\n", ""])
def test_nothing_is_told_of_a_cgroup_that_cannot_be_seen(machine: Path, membership: str) -> None:
    (machine / "cgroup").mkdir()
    (machine / "cgroup" / "memory.stat").write_text("shmem 4096\n")
    (machine / "cgroup" / "cgroup.procs").write_text(f"{DAEMON}\n")
    (machine / "proc" / str(DAEMON) / "cgroup").write_text(membership)
    assert shmem_nbytes(DAEMON, machine / "proc", machine / "cgroup") is None


def test_nothing_is_told_of_a_process_that_is_gone(machine: Path) -> None:
    assert shmem_nbytes(4711, machine / "proc", machine / "cgroup") is None


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """A new memory cgroup of the real kernel."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("memory", ""):
            base = CGROUPS / controllers / path.lstrip("/")
            group = base / f"weightd-test-{os.getpid()}"
            break
    with contextlib.suppress(OSError):
        group.mkdir()
    if not (group / "memory.stat").exists():
        pytest.skip(f"no memory cgroup can be made at {group}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.root
def test_memory_that_a_worker_keeps_when_the_daemon_freed_it_is_seen(own_cgroup: Path) -> None:
    nbytes = 8 * 2**20
    join = f'echo $$ > {own_cgroup}/cgroup.procs && exec "$@"'
    with running_daemon(prefix=("sh", "-c", join, "sh")) as daemon:
        fd = _descriptor_of_a_model(daemon, bytes(nbytes))
        with running_exporter(daemon) as exporter:

            def elsewhere() -> float:
                return exporter.scrape().value("weightd_held_elsewhere_bytes")

            held = daemon.client.status().held_nbytes
            assert held >= nbytes
            assert elsewhere() < nbytes / 2
            daemon.client.unload("big")
            wait_until(lambda: daemon.client.status().held_nbytes == 0)
            wait_until(lambda: elsewhere() >= nbytes)
            os.close(fd)
            wait_until(lambda: elsewhere() < nbytes / 2)


def _descriptor_of_a_model(daemon: Daemon, content: bytes) -> int:
    """Attach by hand, keep the descriptor, and leave."""
    import numpy as np

    daemon.client.load("big", {"w": np.frombuffer(content, np.uint8)})
    daemon.client.allow("big", os.getpid())
    with raw_worker(daemon) as peer:
        peer.say(protocol.Attach("big"))
        granted, [fd] = peer.hear()
        assert isinstance(granted, protocol.Granted)
    wait_until(lambda: not daemon.client.status().workers)
    return fd
