"""memory.py: every limit that is in force is seen before memory is taken."""

from pathlib import Path

import pytest

from weightd.errors import InsufficientMemoryError
from weightd.ipc import memory
from weightd.ipc.memory import Limit, _cgroup_limits

MIB = 2**20


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def v2(folder: Path, limit: object, usage: int, stat: str = "anon 5\ninactive_file 0") -> None:
    write(folder, memory__max=limit, memory__current=usage, memory__stat=stat)


def v1(folder: Path, limit: object, usage: int, stat: str = "total_inactive_file 0") -> None:
    write(folder, memory__limit_in_bytes=limit, memory__usage_in_bytes=usage, memory__stat=stat)


def test_a_v2_limit_leaves_what_is_not_used(tmp_path: Path) -> None:
    v2(tmp_path / "user/app", 100, 30)
    assert _cgroup_limits("0::/user/app\n", tmp_path) == [
        Limit(70, "memory limit of cgroup user/app")
    ]


def test_page_cache_that_the_kernel_can_drop_is_not_counted_as_used(tmp_path: Path) -> None:
    v2(tmp_path / "app", 100, 90, "file 80\ninactive_file 50\nactive_file 30")
    assert [limit.nbytes for limit in _cgroup_limits("0::/app", tmp_path)] == [60]


def test_the_limits_of_all_groups_above_count_too(tmp_path: Path) -> None:
    v2(tmp_path / "a/b/c", "max", 10)
    v2(tmp_path / "a/b", 100, 95)
    v2(tmp_path / "a", 1000, 100)
    found = _cgroup_limits("0::/a/b/c", tmp_path)
    assert [(limit.nbytes, limit.name) for limit in found] == [
        (5, "memory limit of cgroup a/b"),
        (900, "memory limit of cgroup a"),
    ]


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    v2(tmp_path / "app", 100, 130)
    assert [limit.nbytes for limit in _cgroup_limits("0::/app", tmp_path)] == [0]


def test_a_v1_limit_is_read_from_the_memory_hierarchy(tmp_path: Path) -> None:
    v1(tmp_path / "memory/box", 500, 200, "cache 3\ntotal_inactive_file 100")
    v1(tmp_path / "memory", 2**63 - 4096, 900)  # v1's way to say: none
    membership = "4:cpu,cpuacct:/box\n3:memory:/box\n0::/"
    assert [limit.nbytes for limit in _cgroup_limits(membership, tmp_path)] == [400]


def test_a_hybrid_tree_has_v2_beneath_unified(tmp_path: Path) -> None:
    v2(tmp_path / "unified/app", 64, 4)
    assert [limit.nbytes for limit in _cgroup_limits("0::/app", tmp_path)] == [60]


@pytest.mark.parametrize(
    "membership",
    ["0::/gone", "0::/", "", "3:cpu:/x", "0::/../../etc", "1:name=systemd:/init.scope"],
)
def test_without_limits_there_are_none(membership: str, tmp_path: Path) -> None:
    assert _cgroup_limits(membership, tmp_path) == []


def test_unreadable_numbers_are_no_limit(tmp_path: Path) -> None:
    v2(tmp_path / "app", "plenty", 1)
    assert _cgroup_limits("0::/app", tmp_path) == []


def test_the_budget_counts_when_it_is_the_least() -> None:
    assert memory.available(0) == Limit(0, "memory budget of the daemon")
    assert memory.available(-5).nbytes == 0
    assert memory.available(2**62).nbytes <= memory.available().nbytes * 2


def test_the_machine_has_some_memory_and_not_all_there_could_be() -> None:
    assert MIB < memory.available().nbytes < 2**50


def test_a_refusal_names_what_is_needed_there_and_missing() -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        memory.require(3 * MIB, "a model", budget_nbytes=MIB)
    expected = "a model needs 3.0 MiB and the memory budget of the daemon leaves 1.0 MiB: 2.0 MiB"
    assert expected in str(caught.value)
    memory.require(MIB, "a model", budget_nbytes=MIB)
