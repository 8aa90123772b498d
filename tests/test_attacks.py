"""Attacks on a daemon's fd store, its children and its process that no other test has."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, kept_daemon, running_worker
from tests.helpers import wait_until
from tests.test_resilience import AS_OTHER, OTHER_UID
from weightd.daemon.fdstore import FdStore
from weightd.daemon.loop import Loop
from weightd.daemon.settings import Settings
from weightd.errors import LimitError, StoreError
from weightd.ipc.manager import Given, Manager
from weightd.ipc.runtime import RuntimeFolder


@pytest.fixture
def other() -> Iterator[Daemon]:
    """A daemon of an ordinary user, with lenet."""
    with tempfile.TemporaryDirectory(prefix="wd-") as path:
        os.chown(path, OTHER_UID, OTHER_UID)
        folder = RuntimeFolder(Path(path) / "run")
        daemon = Daemon(Settings(), folder, Path(path) / "log", prefix=AS_OTHER)
        try:
            daemon.load_lenet()
            yield daemon
        finally:
            daemon.close()


def heard(manager: Manager) -> bytes:
    """Wait until the keeper has read all that was sent; what it says of it."""
    barrier = manager.barrier()
    os.set_blocking(barrier, True)
    with open(barrier, "rb") as file:
        return file.read()


def has_opened(pid: int) -> bool:
    """Whether a process of the daemon's user can open the memory of that one."""
    program = f"open('/proc/{pid}/mem', 'rb')"
    command = [*AS_OTHER, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


def test_the_keeper_heeds_nobody_but_its_daemon() -> None:
    with kept_daemon() as kept:
        kept.load_lenet()
        stored = Path(f"/proc/{kept.process.pid}/fd")
        before = len(list(stored.iterdir()))
        forger = Manager(str(kept.folder.keeper))
        try:
            with open("/dev/null", "rb") as file:
                forger.store("segment.1", file.fileno())
            forger.remove("state")
            assert heard(forger) == b""
        finally:
            forger.close()
        wait_until(lambda: len(list(stored.iterdir())) == before)
        kept.kill()
        assert kept.versions() == [(1, "LIVE")]


def test_what_the_manager_gives_is_kept_from_children() -> None:
    given = {
        "NOTIFY_SOCKET": "/run/notify",
        "FDSTORE": "8",
        "WATCHDOG_USEC": "1000000",
        "LISTEN_FDS": "0",
        "LISTEN_FDNAMES": "",
        "LISTEN_PID": str(os.getpid()),
        "WEIGHTD_STORE": "weightd-keeper",
    }
    environ = given | {"PATH": "/bin"}
    assert Given.take(environ).notify == "/run/notify"
    assert environ == {"PATH": "/bin"}


def test_what_the_store_has_no_room_for_is_refused_before_it_is_made() -> None:
    loop, manager = Loop(), Manager("")
    try:
        stored = tuple((f"segment.{n}", -1) for n in range(6))
        store = FdStore(loop, Given(notify="/run/notify", stored=stored, room=8), manager)
        store.check_room(2)
        with pytest.raises(LimitError, match="6 of at most 8 descriptors, and 3 more"):
            store.check_room(3)
        with pytest.raises(StoreError):  # nobody takes it, and so it is not taken for stored
            store.park({"segment.7": 0})
        store.check_room(2)
    finally:
        manager.close()
        loop.close()


@pytest.mark.root
def test_a_process_that_the_daemon_may_not_kill_is_named_and_gets_nothing_new(
    other: Daemon,
) -> None:
    with running_worker(other) as worker:  # root's
        other.client.allow("lenet", worker.pid)
        worker.ask("attach", model="lenet")
        revoked = other.client.revoke("lenet", worker.pid, kill=True)
        assert (revoked.pids, revoked.still_mapped, revoked.killed) == ((worker.pid,),) * 2 + ((),)
        (fault,) = revoked.not_killed
        assert str(worker.pid) in fault
        assert worker.ask("predict", model="lenet")["digests"]
        assert other.client.status().workers[0].lag == "revoked"


@pytest.mark.root
def test_another_process_of_the_daemons_user_cannot_open_its_memory(other: Daemon) -> None:
    with subprocess.Popen([*AS_OTHER, "sleep", "60"]) as ordinary:
        try:
            wait_until(lambda: Path(f"/proc/{ordinary.pid}/comm").read_text() == "sleep\n")
            assert has_opened(ordinary.pid)
            assert not has_opened(other.pid)
        finally:
            ordinary.kill()
