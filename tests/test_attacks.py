"""Attacks of SECURITY.md whose tests are nobody else's."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.daemons import FINAL, Daemon, running_daemon, running_worker
from tests.helpers import kill_and_reap, wait_until
from tests.raw import raw_worker
from tests.test_resilience import AS_OTHER, OTHER_UID
from weightd.daemon.keeper import _ROOM
from weightd.daemon.settings import Settings
from weightd.ipc import linux, peer, protocol
from weightd.ipc.lease import Lease
from weightd.ipc.manager import Manager
from weightd.ipc.peer import Process
from weightd.ipc.runtime import RuntimeFolder

SERVICE = Path(__file__).parent.parent / "systemd" / "weightd.service"
CLOCK = (sys.executable, str(Path(__file__).parent / "workers" / "wild_clock.py"))

SEQPACKET = (socket.AF_UNIX, socket.SOCK_SEQPACKET)


# --- identity before pidfs ---------------------------------------------------------------


def test_before_pidfs_a_process_is_told_by_its_pid_and_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linux, "has_pidfs", lambda: False)
    with Process.of_pid(os.getpid()) as own, Process.of_pid(os.getppid()) as parent:
        assert own.key.kind == parent.key.kind == "pid+start"
        assert own.key != parent.key
    assert peer.identity_kind() == "pid+start"


# --- what a keeper is told ---------------------------------------------------------------

DAEMON = """
import os, sys, time
print(os.getpid(), os.environ.get("NOTIFY_SOCKET"), flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Kept:
    """A keeper whose daemon does what it is told by lines of Python."""

    def __init__(self, path: Path) -> None:
        argv = [sys.executable, "-P", "-m", "weightd.daemon.keeper", str(path), "0"]
        self.process = subprocess.Popen(
            [*argv, sys.executable, "-u", "-c", DAEMON],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.path = path
        self.daemon_pid = int(self.hear().split()[0])

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def have(self, line: str) -> None:
        """Have the daemon do it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.hear() == "done"

    def memfds(self) -> list[str]:
        links = [os.readlink(p) for p in Path(f"/proc/{self.process.pid}/fd").iterdir()]
        return sorted(link.split(" ")[0] for link in links if "memfd" in link)


@pytest.fixture
def kept() -> Iterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="wd-") as folder:
        keeper = Kept(Path(folder) / "keeper.sock")
        try:
            yield keeper
        finally:
            daemon_pid = keeper.daemon_pid
            kill_and_reap(keeper.process)
            os.kill(daemon_pid, signal.SIGKILL)  # nobody reaps it but PID 1
            wait_until(lambda: not _is_running(daemon_pid))


def _is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


STORE = "m.store({name!r}, os.memfd_create({name!r}))"
BEGIN = "from weightd.ipc.manager import Manager; m = Manager(os.environ['NOTIFY_SOCKET'])"


def test_nobody_but_the_daemon_is_heeded_by_its_keeper(kept: Kept) -> None:
    kept.have(BEGIN)
    kept.have(STORE.format(name="own"))
    forger = Manager(str(kept.path))
    with os.fdopen(os.memfd_create("forged"), "wb") as forged:
        forger.store("m.v99", forged.fileno())
        forger.remove("own")
    forger.close()
    child = f"c = os.fork() or ({STORE.format(name='childs')}, m.remove('own'), os._exit(0))"
    kept.have(child)
    kept.have("os.waitpid(c, 0)")
    kept.have(STORE.format(name="last"))
    wait_until(lambda: "/memfd:last" in kept.memfds())  # and so all before it was read
    assert kept.memfds() == ["/memfd:last", "/memfd:own"]


def test_a_keeper_says_what_it_did_not_take_and_drops_nothing_for_it(kept: Kept) -> None:
    kept.have(BEGIN)
    kept.have(STORE.format(name="one"))
    kept.have(STORE.format(name="one"))
    kept.have("fd = m.barrier(); os.set_blocking(fd, True); said = os.read(fd, 100)")
    kept.have("assert said == b'one', said")
    kept.have("assert os.read(fd, 100) == b''")
    assert kept.memfds() == ["/memfd:one"]
    assert _ROOM == 4096


def test_the_service_avoids_the_traps_of_systemd() -> None:
    lines = [line.strip() for line in SERVICE.read_text().splitlines()]
    assert "StartLimitIntervalSec=0" in lines
    for trap in ("PrivateUsers=yes", "PrivateUsers=true", "PrivatePIDs=yes", "NotifyAccess=all"):
        assert trap not in lines


# --- doorbells, and memory that goes on --------------------------------------------------


def test_a_worker_that_blocks_its_end_and_reads_nothing_blocks_nobody(lenet: Daemon) -> None:
    with raw_worker(lenet) as stuck, raw_worker(lenet) as honest:
        stuck.sock.setblocking(True)  # of its own end: the daemon's is another open file
        lenet.client.allow("lenet", os.getpid())
        stuck.sock.settimeout(2)
        with contextlib.suppress(OSError):
            for _ in range(100_000):  # until the daemon, which cannot send any more, hangs up
                stuck.say(protocol.CurrentPid())
            pytest.fail("the daemon takes requests without end, and nobody reads the answers")
        assert isinstance(honest.ask(protocol.CurrentPid()), protocol.YourPid)


def test_memory_that_a_worker_passed_on_stays_and_is_not_counted_as_held(daemon: Daemon) -> None:
    daemon.client.load("m", {"w": np.ones(2**20, np.uint8)})
    daemon.client.allow("m", os.getpid())
    lease = Lease(daemon.folder, timeout_s=10)
    grant = lease.attach("m", None)
    passed_on = os.dup(grant.segments[0].fileno())
    grant.close()
    lease.close()
    daemon.client.unload("m")
    wait_until(lambda: daemon.client.status().held_nbytes == 0)
    assert os.pread(passed_on, 8, os.fstat(passed_on).st_size // 2) == b"\1" * 8
    os.close(passed_on)


def test_memory_has_pages_of_which_single_ones_can_be_mapped(daemon: Daemon) -> None:
    daemon.client.load("m", {"w": np.ones(2**22, np.uint8)})
    daemon.client.allow("m", os.getpid())
    lease = Lease(daemon.folder, timeout_s=10)
    grant = lease.attach("m", None)
    assert os.fstat(grant.segments[0].fileno()).st_blksize == os.sysconf("SC_PAGE_SIZE")
    grant.close()
    lease.close()


def test_a_manifest_larger_than_any_message_arrives(daemon: Daemon) -> None:
    tensors = {f"{'n' * 200}.{n}": np.zeros(1, np.uint8) for n in range(2000)}
    daemon.client.load("many", tensors)
    with daemon.attach_here("many") as model:
        assert len(model.parameters) == 2000
        assert sum(map(len, model.parameters)) > 4 * protocol.MAX_MESSAGE_NBYTES


# --- another user's daemon ---------------------------------------------------------------


@contextmanager
def others_daemon() -> Iterator[Daemon]:
    """A daemon of an ordinary user, without any right to kill others."""
    with tempfile.TemporaryDirectory(prefix="wd-", dir="/tmp") as path:
        os.chown(path, OTHER_UID, OTHER_UID)
        folder = RuntimeFolder(Path(path) / "run")
        daemon = Daemon(Settings(), folder, Path(path) / "log", prefix=AS_OTHER)
        try:
            yield daemon
        finally:
            daemon.close()


@pytest.mark.root
def test_a_daemon_is_closed_to_its_own_user_and_says_whom_it_cannot_kill() -> None:
    with others_daemon() as daemon:
        assert os.stat(f"/proc/{daemon.pid}/mem").st_uid == 0  # not its user's: not dumpable
        daemon.load_lenet()
        with running_worker(daemon) as worker:
            daemon.client.allow("lenet", worker.ask("current_pid")["pid"])
            worker.ask("attach", model="lenet")
            answer = daemon.client.revoke("lenet", worker.pid, kill=True)
            assert answer.killed == ()
            assert len(answer.not_killed) == 1
            assert str(worker.pid) in answer.not_killed[0]
            assert worker.process.poll() is None


# --- clocks ------------------------------------------------------------------------------


def test_a_wall_clock_that_jumps_changes_nothing() -> None:
    with running_daemon(prefix=CLOCK, hello_deadline_s=1) as daemon:
        daemon.load_lenet()
        with daemon.attach_here() as model, socket.socket(*SEQPACKET) as silent:
            silent.connect(os.fspath(daemon.folder.attach))
            assert daemon.client.publish("lenet", FINAL) == 2
            model.wait_for_version(2, timeout_s=10)
            years = {round(daemon.client.status().uptime_s / 3e7) for _ in range(4)}
            assert len(years) > 1  # its clock does jump
            silent.settimeout(10)
            started_s = time.monotonic()
            assert silent.recv(1) == b""  # closed at its deadline, and not before
            assert time.monotonic() - started_s < 8
            assert model.version == 2
