"""The hollow file: where it is made, what it takes, and that it is gone when a session is open."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import weightd
from tests.daemons import WORKERS
from tests.pairs import entry_named, paired
from weightd.backends import hollow
from weightd.backends.hollow import hollow_file
from weightd.errors import CompileError

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
GIB = 2**30


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(hollow, "OTHER_FOLDERS", ())
    return tmp_path


def test_it_has_its_size_and_content_and_takes_next_to_no_space(only_here: Path) -> None:
    content: dict[int, bytes | memoryview] = {4096: b"first", GIB: memoryview(b"second")}
    with hollow_file("weights", 2 * GIB, content) as path:
        assert path.parent.parent == only_here
        assert path.name == "weights"
        assert os.listdir(path.parent) == ["weights"]
        assert path.stat().st_size == 2 * GIB
        assert path.stat().st_blocks * 512 < 2**20
        with path.open("rb") as file:
            for offset, raw in content.items():
                assert os.pread(file.fileno(), 8, offset) == bytes(raw).ljust(8, b"\0")
    assert list(only_here.iterdir()) == []


def test_it_goes_when_the_block_fails(only_here: Path) -> None:
    with pytest.raises(KeyError), hollow_file("weights", 4096):
        raise KeyError
    assert list(only_here.iterdir()) == []


def test_without_a_folder_the_refusal_names_the_variable_to_set(
    only_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(only_here / "gone"))
    with pytest.raises(CompileError, match=r"gone will do: .*; set TMPDIR"):
        hollow_file("weights", 4096).__enter__()


def test_a_file_system_that_refuses_is_said_to(only_here: Path) -> None:
    with pytest.raises(CompileError, match="set TMPDIR"):
        hollow_file("weights", 2**63 - 1).__enter__()  # larger than any file may be
    assert list(only_here.iterdir()) == []


def test_it_is_gone_once_a_session_is_open_and_nothing_reads_it(only_here: Path) -> None:
    with paired(entry_named("mlp")) as pair:
        session = pair.open_packed(1)
        assert not list(only_here.glob("weightd-*"))
        assert pair.run(session) == 1
        session.swap(pair.map(2))
        assert not list(only_here.glob("weightd-*"))
        session.close()


def test_a_folder_that_is_reached_by_a_link_will_do(
    only_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where /tmp is one."""
    (only_here / "real").mkdir()
    (only_here / "link").symlink_to("real")
    monkeypatch.setattr(tempfile, "tempdir", str(only_here / "link"))
    with paired(entry_named("mlp")) as pair:
        assert pair.engine(1) == "prepacked"
        session = pair.open_packed(1)
        assert pair.run(session) == 1
        session.close()


# --- small file systems ------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process finds for which /dev/shm has 64 MiB, and the folder `tiny` 512 KiB."""
    folder = tmp_path_factory.mktemp("mounts")
    program = [sys.executable, str(WORKERS / "small_tmpfs.py"), str(folder)]
    done = subprocess.run(
        [*OWN_MOUNTS, *program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(weightd.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return {"folder": str(folder), **json.loads(done.stdout)}


@pytest.mark.root
def test_a_tmpfs_that_is_too_small_is_passed_over(found: dict[str, Any]) -> None:
    assert found["fits"] == f"{found['folder']}/tiny"
    assert found["too large"] == found["folder"]


@pytest.mark.root
def test_when_every_tmpfs_is_too_small_the_refusal_names_the_variable(
    found: dict[str, Any],
) -> None:
    code, text = found["nowhere"]
    assert code == "CompileError"
    assert text.endswith("of the 2097152 that are needed; set TMPDIR")


@pytest.mark.root
def test_dockers_64_mib_are_used_for_what_fits_and_never_overrun(found: dict[str, Any]) -> None:
    fits, passed_over, (code, text) = found["docker"]
    assert (fits, passed_over) == ("/dev/shm", found["folder"])
    assert code == "CompileError"
    assert text.endswith("of the 104857600 that are needed; set TMPDIR")


@pytest.mark.root
def test_a_session_opens_and_switches_where_the_usual_folder_is_too_small(
    found: dict[str, Any],
) -> None:
    session = found["session"]
    assert session["nbytes"] > 2**19
    assert (session["answers"], session["left"]) == ([1, 2], [])


def test_what_a_killed_process_left_is_removed_by_the_next_one(only_here: Path) -> None:
    left, held, young = (only_here / f"weightd-hollow-{name}" for name in ("left", "held", "young"))
    for folder in (left, held, young):
        folder.mkdir()
        (folder / "weights").write_bytes(b"real")
    for folder in (left, held):
        os.utime(folder, (1, 1))
    with (held / "weights").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with hollow_file("weights", 4096):
            assert not left.exists()
    assert held.exists()
    assert young.exists()
