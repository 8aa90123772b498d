"""unit.py: in which systemd unit a process is, and that it cannot say so itself."""

import os
import subprocess
from pathlib import Path

import pytest

from weightd.ipc.peer import Process
from weightd.ipc.unit import Membership, blindness, unit_in, unit_of, unit_of_path


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/a.service", "a.service"),
        ("/system.slice/a.service/below/b.service", "a.service"),
        ("/system.slice/system-a.slice/a@1.service", "a@1.service"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/a.service", "a.service"),
        ("/init.scope", "init.scope"),
        ("/machine.slice/machine-x.scope/payload/system.slice/a.service", "machine-x.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        # what a user's own manager starts, whatever it calls itself
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", "user@1000.service"),
        (
            "/user.slice/user-1000.slice/user@1000.service/system.slice/a.service",
            "user@1000.service",
        ),
        # in no unit
        ("/", ""),
        ("", ""),
        ("/system.slice", ""),
        ("/docker/0123456789ab", ""),
        ("/docker/0123456789ab/system.slice/a.service", ""),
        ("/system.slice/a.service (deleted)", ""),
        ("/system.slice/a.mount", ""),
        ("/system.slice/.service", ""),
        ("/system.slice/a b.service", ""),
        ("/system.slice/" + "a" * 300 + ".service", ""),
    ],
)
def test_the_unit_is_the_first_part_behind_the_slices(path: str, unit: str) -> None:
    assert unit_of_path(path) == unit


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/a.service\n", "a.service"),
        ("9:name=systemd:/system.slice/a.service\n4:memory:/x/y.service\n0::/\n", "a.service"),
        ("9:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n", "a.service"),
        ("4:memory:/system.slice/a.service\n", ""),
        ("0:x:/system.slice/a.service\n", ""),
        ("", ""),
    ],
)
def test_only_the_hierarchies_that_systemd_keeps_count(text: str, unit: str) -> None:
    assert unit_in(text) == Membership(unit)


def test_two_hierarchies_that_disagree_name_none() -> None:
    found = unit_in("9:name=systemd:/a.service\n0::/b.service\n")
    assert found.unit == ""
    assert "two units: a.service, b.service" in found.fault


def test_a_process_outside_the_cgroup_namespace_is_in_no_unit_that_is_known() -> None:
    assert "namespace" in unit_in("0::/../../system.slice/a.service\n").fault


def test_the_file_of_the_process_is_read_while_it_lives(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "100"])
    with Process.of_pid(child.pid) as process:
        folder = tmp_path / str(child.pid)
        folder.mkdir()
        (folder / "cgroup").write_text("0::/system.slice/a.service\n")
        assert unit_of(process, tmp_path) == Membership("a.service")
        child.kill()
        child.wait()
        assert unit_of(process, tmp_path) == Membership(fault="the process has ended")


def test_a_proc_that_does_not_show_the_process_is_said(tmp_path: Path) -> None:
    with Process.of_pid(os.getpid()) as process:
        found = unit_of(process, tmp_path)
        assert found.unit == ""
        assert "hidepid" in found.fault
        (tmp_path / str(os.getpid()) / "cgroup").mkdir(parents=True)  # it cannot be read
        assert "cannot read" in unit_of(process, tmp_path).fault
    assert "hidepid" in blindness(tmp_path)
    assert unit_of(process, tmp_path).unit == ""


def test_this_process_can_be_read() -> None:
    with Process.of_pid(os.getpid()) as process:
        assert unit_of(process).fault == ""
