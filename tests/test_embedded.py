"""Embedded mode: a process serves what it shares; who has the handle finds it; its end is clean."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import weightd
from tests.daemons import LENET, running_daemon
from tests.helpers import wait_until
from weightd.backends.attaching import attach_by_handle
from weightd.backends.threads import ONE
from weightd.daemon.embedded import Embedded
from weightd.errors import NoDaemonError, NotAllowedError, SettingsError
from weightd.ipc.rendezvous import Rendezvous
from weightd.ipc.runtime import InstanceLock, RuntimeFolder
from weightd.ipc.seqpacket import connect

Environ = dict[str, str]

SERVING = """
import os, sys, time
import weightd
from weightd.daemon.embedded import Embedded
with Embedded(os.environ) as embedded, weightd.Client(embedded.folder.path) as client:
    client.load("lenet", sys.argv[1])
    handle = client.allow("lenet", [os.getpid(), os.getppid()])
    embedded.announce(handle)
    if "fork" in sys.argv:
        if os.fork() == 0:
            time.sleep(600)
    print(handle, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def environ(short_path: Path) -> Environ:
    return {"WEIGHTD_RUNTIME_DIR": str(short_path / "run")}


@pytest.fixture
def serving(environ: Environ) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Another process that serves LeNet-5 to this one; and the handle."""
    with serving_process(environ) as (process, handle):
        yield process, handle


class serving_process:  # noqa: N801 - used like a function
    """A process that serves; killed with its children at the end."""

    def __init__(self, environ: Environ, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVING, str(LENET), *words],
            env=os.environ | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> tuple["subprocess.Popen[str]", int]:
        assert self._process.stdout is not None
        return self._process, int(self._process.stdout.readline())

    def __exit__(self, *exc_info: object) -> None:
        with self._process:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def folder_of(handle: int, environ: Environ) -> RuntimeFolder:
    folder = Rendezvous(environ).find(handle)
    assert folder is not None
    return folder


def entries(environ: Environ) -> list[str]:
    return sorted(os.listdir(Path(environ["WEIGHTD_RUNTIME_DIR"]) / "embedded"))


def test_who_has_the_handle_finds_the_server_and_attaches_without_a_name(
    serving: tuple[object, int], environ: Environ
) -> None:
    _, handle = serving
    with attach_by_handle(handle, folder_of(handle, environ), threads=(ONE,)) as attachment:
        assert attachment.model == "lenet"
        assert attachment.engine == "prepacked"


def test_the_name_of_the_meeting_point_tells_nobody_the_handle(
    serving: tuple[object, int], environ: Environ
) -> None:
    _, handle = serving
    assert not any(str(handle) in name or f"{handle:x}" in name for name in entries(environ))
    folder = Path(environ["WEIGHTD_RUNTIME_DIR"])
    for path in (folder, folder / "embedded"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert f"{handle}" not in Path("/proc/net/unix").read_text()


def test_a_wrong_handle_opens_nothing(serving: tuple[object, int], environ: Environ) -> None:
    _, handle = serving
    folder = folder_of(handle, environ)
    assert Rendezvous(environ).find(handle ^ 1) is None
    with pytest.raises(NotAllowedError, match="this handle lets process"):
        attach_by_handle(handle ^ 1, folder, threads=(ONE,))


def test_a_process_that_is_not_on_the_list_is_refused(environ: Environ) -> None:
    with Embedded(environ) as embedded, weightd.Client(embedded.folder.path) as client:
        client.load("lenet", LENET)
        handle = client.allow("lenet", os.getppid())
        embedded.announce(handle)
        with pytest.raises(NotAllowedError, match="not one of those that it was made for"):
            attach_by_handle(handle, folder_of(handle, environ), threads=(ONE,))


def test_when_the_server_is_killed_predictions_go_on_and_the_next_one_sweeps(
    serving: tuple["subprocess.Popen[str]", int], environ: Environ
) -> None:
    process, handle = serving
    with attach_by_handle(handle, folder_of(handle, environ), threads=(ONE,)) as attachment:
        process.kill()
        process.wait()
        wait_until(lambda: not attachment.is_connected)
        zeros = np.zeros((1, 1, 32, 32), np.float32)
        assert attachment.predict({"x": zeros})["12"].shape == (1, 10)
    with pytest.raises(NoDaemonError):
        Rendezvous(environ).find(handle)
    assert len(entries(environ)) == 2
    with Embedded(environ) as embedded:
        assert entries(environ) == [embedded.folder.path.name]
    assert entries(environ) == []


def test_a_forked_child_does_not_keep_a_dead_server_alive(environ: Environ) -> None:
    with serving_process(environ, "fork") as (process, handle):
        folder = folder_of(handle, environ)
        with attach_by_handle(handle, folder, threads=(ONE,)) as attachment:
            process.kill()
            process.wait()
            wait_until(lambda: not attachment.is_connected)
        with pytest.raises(NoDaemonError):
            Rendezvous(environ).find(handle)
        with pytest.raises(NoDaemonError):
            connect(folder.admin, max_fds=0, timeout_s=5)


def test_closing_twice_and_in_a_child_harms_nothing(environ: Environ) -> None:
    embedded = Embedded(environ)
    child = os.fork()
    if child == 0:
        embedded.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with weightd.Client(embedded.folder.path) as client:
        assert client.status().pid == os.getpid()
    embedded.close()
    embedded.close()
    assert entries(environ) == []


def test_a_folder_is_made_and_locked_while_no_other_process_sweeps(
    environ: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another one could take it, before its lock is held, for what a killed process left."""
    seen: list[str] = []

    def check(name: str) -> None:
        fd = os.open(Rendezvous(environ).path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        seen.append(name)

    def sweeping(self: Rendezvous) -> None:
        check("swept")

    def locked(folder: RuntimeFolder) -> InstanceLock:
        check("locked")
        return InstanceLock(folder)

    monkeypatch.setattr(Rendezvous, "_sweep", sweeping)
    monkeypatch.setattr("weightd.ipc.rendezvous.InstanceLock", locked)
    with Embedded(environ):
        assert seen == ["swept", "locked"]


def test_the_users_process_keeps_its_umask_meanwhile(
    environ: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> int:
        raise AssertionError("a umask is of all threads")

    monkeypatch.setattr(os, "umask", fail)
    with Embedded(environ) as embedded:
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in embedded.folder.path.iterdir()
            if path.is_socket()
        }
    assert modes
    assert not any(mode & 0o077 for mode in modes.values())


def test_a_daemon_can_start_in_the_folder_that_embedded_ones_use(short_path: Path) -> None:
    folder = short_path / "run"
    with Embedded({"WEIGHTD_RUNTIME_DIR": str(folder)}):
        RuntimeFolder(folder).create(0o711)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711


@pytest.mark.root
def test_without_a_folder_of_its_own_a_user_meets_in_the_temporary_one(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    service = short_path / "service"
    service.mkdir(mode=0o711)
    os.chown(service, 1234, 1234)
    found = Rendezvous({"WEIGHTD_RUNTIME_DIR": str(service)}).path
    assert found == short_path / f"weightd-{os.geteuid()}" / "embedded"


def test_a_handle_alone_attaches_at_a_daemon_too() -> None:
    with running_daemon() as daemon:
        daemon.load_lenet()
        handle = daemon.client.allow("lenet", os.getpid())
        with attach_by_handle(handle, daemon.folder, threads=(ONE, ONE)) as attachment:
            assert attachment.model == "lenet"
        with pytest.raises(NotAllowedError, match="this handle lets"):
            attach_by_handle(handle ^ 1, daemon.folder, threads=(ONE,))


def test_a_folder_whose_name_leaves_no_room_is_not_used(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    long = short_path / ("x" * (90 - len(str(short_path))))
    found = Rendezvous({"WEIGHTD_RUNTIME_DIR": str(long)}).path
    assert found.parent.parent == short_path


def test_a_folder_that_others_could_write_is_refused(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    base = short_path / f"weightd-{os.geteuid()}"
    base.mkdir()
    base.chmod(0o777)
    environ = {"WEIGHTD_RUNTIME_DIR": str(base)}
    with pytest.raises(SettingsError, match="others can write to it"):
        Embedded(environ)
    rendezvous = Rendezvous(environ)
    rendezvous.path.mkdir()
    rendezvous.announce(RuntimeFolder(rendezvous.path / "anyones"), 7)
    with pytest.raises(NotAllowedError, match="others can write to it"):
        rendezvous.find(7)
