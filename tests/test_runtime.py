"""runtime.py: one daemon for each folder, and a folder that nobody else can write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weightd.errors import SettingsError
from weightd.ipc.runtime import InstanceLock, RuntimeFolder

TRY_LOCK = """
import sys
from pathlib import Path
from weightd.errors import AlreadyRunningError
from weightd.ipc.runtime import InstanceLock, RuntimeFolder
try:
    InstanceLock(RuntimeFolder(Path(sys.argv[1]))).close()
    print("free")
except AlreadyRunningError as error:
    print(error)
"""


def try_lock(folder: RuntimeFolder) -> str:
    """Take the lock in another process: 'free', or what it was told."""
    command = [sys.executable, "-c", TRY_LOCK, str(folder.path)]
    root = Path(__file__).parent.parent
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def folder(tmp_path: Path) -> RuntimeFolder:
    found = RuntimeFolder(tmp_path / "run")
    found.create(0o700)
    return found


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("/a", {"WEIGHTD_RUNTIME_DIR": "/b"}, "/a"),
        (None, {"WEIGHTD_RUNTIME_DIR": "/b", "RUNTIME_DIRECTORY": "/c"}, "/b"),
        (None, {"RUNTIME_DIRECTORY": "/c:/d", "XDG_RUNTIME_DIR": "/e"}, "/c"),
        (None, {"XDG_RUNTIME_DIR": "/e", "RUNTIME_DIRECTORY": ""}, "/e/weightd"),
    ],
)
def test_the_folder_is_the_first_one_named(
    given: str | None, environ: dict[str, str], expected: str
) -> None:
    assert RuntimeFolder.find(given, environ).path == Path(expected)


def test_root_has_a_folder_of_its_own_and_others_are_told_to_name_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert RuntimeFolder.find(None, {}).path == Path("/run/weightd")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SettingsError, match="--runtime-dir"):
        RuntimeFolder.find(None, {})


def test_a_path_too_long_for_a_socket_is_refused_and_the_longest_is_not() -> None:
    RuntimeFolder.find("/" + "x" * 93, {})
    with pytest.raises(SettingsError, match="too long"):
        RuntimeFolder.find("/" + "x" * 95, {})


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_could_write_is_refused(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(SettingsError, match="could be written by others"):
        RuntimeFolder(tmp_path).create(0o700)


@pytest.mark.root
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1234)
    with pytest.raises(SettingsError, match="owner uid 1234"):
        RuntimeFolder(tmp_path).create(0o700)


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(SettingsError, match="is not a folder"):
        RuntimeFolder(tmp_path / "link").create(0o700)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError):
            RuntimeFolder(path).create(0o700)


def test_the_folder_gets_the_mode_that_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        RuntimeFolder(tmp_path / "run").create(0o711)
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o711


def test_a_second_daemon_is_refused_and_told_who_is_there(folder: RuntimeFolder) -> None:
    with InstanceLock(folder):
        assert f"pid {os.getpid()}" in try_lock(folder)
    assert try_lock(folder) == "free\n"


def test_a_forked_child_neither_has_the_lock_nor_takes_it_from_its_parent(
    folder: RuntimeFolder,
) -> None:
    read_end, write_end = os.pipe()
    lock = InstanceLock(folder)
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)  # holds the descriptor until the parent closes the pipe
        os._exit(0)
    os.close(read_end)
    assert "already" in try_lock(folder)
    lock.close()
    free = try_lock(folder)
    os.close(write_end)
    os.waitpid(pid, 0)
    assert free == "free\n"


def test_closing_twice_is_fine(folder: RuntimeFolder) -> None:
    lock = InstanceLock(folder)
    lock.close()
    lock.close()


def test_a_lock_that_cannot_be_opened_is_the_folders_fault(folder: RuntimeFolder) -> None:
    folder.lock.mkdir()
    with pytest.raises(SettingsError, match=r"daemon\.lock"):
        InstanceLock(folder)


def test_the_file_that_a_killed_daemon_left_locks_nobody_out(folder: RuntimeFolder) -> None:
    folder.lock.write_text("4711\n")
    with InstanceLock(folder):
        assert folder.lock.read_text() == f"{os.getpid()}\n"


def test_a_folder_that_is_for_something_else_keeps_its_mode(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "letter.txt").write_text("dear")
    with pytest.raises(SettingsError, match="in use for something else"):
        RuntimeFolder(home).create(0o700)
    assert home.stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_and_a_former_runtime_folder_get_the_mode(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path / "run")
    folder.path.mkdir(mode=0o755)
    folder.create(0o700)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.lock.touch()
    folder.create(0o711)
    assert folder.path.stat().st_mode & 0o777 == 0o711
