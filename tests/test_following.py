"""watcher.py: a worker that cannot follow to a version stays on its own, and holds nothing else."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import weightd
from tests.daemons import EARLY, FINAL, Daemon, Kept
from tests.helpers import open_descriptors, wait_until
from weightd.backends import plain, version
from weightd.daemon.settings import Settings
from weightd.errors import BrokenPeerError, DaemonTimeoutError, NewerFormatError
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder


def check_that_it_stays(daemon: Daemon, here: weightd.Attachment, why: str) -> None:
    """However many versions come that it cannot use, and says so to both sides."""
    for number in range(2, 6):
        daemon.client.publish("lenet", (FINAL, EARLY)[number % 2])
        with pytest.raises(DaemonTimeoutError, match=f"stays on 1: .*{why}"):
            here.wait_until_at_least(number, timeout_s=5)
    wait_until(lambda: daemon.leases() == {1: 1, 4: 0, 5: 0})
    (worker,) = daemon.client.status().workers
    assert why in worker.lag
    assert here.is_connected


def check_that_it_follows(daemon: Daemon, here: weightd.Attachment) -> None:
    here.wait_for_version(daemon.client.publish("lenet", FINAL), timeout_s=10)
    wait_until(lambda: daemon.leases() == {5: 0, 6: 1})
    assert here.lag == ""


def test_a_version_that_cannot_be_read_is_not_held(
    lenet: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(_: memoryview) -> None:
        raise NewerFormatError("a newer weightd wrote it")

    with lenet.attach_here() as here:
        monkeypatch.setattr(version, "read_manifest", newer)
        check_that_it_stays(lenet, here, "a newer weightd wrote it")
        monkeypatch.undo()
        check_that_it_follows(lenet, here)


def test_a_version_for_which_the_plain_engine_has_no_memory_is_not_held(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError

    daemon.load_lenet(engine="plain")
    with daemon.attach_here() as here:
        monkeypatch.setattr(plain, "_opened", out_of_memory)
        check_that_it_stays(daemon, here, "no memory to switch to version")
        monkeypatch.undo()
        check_that_it_follows(daemon, here)


def sockets() -> int:
    return sum(target.startswith("socket:") for target in open_descriptors().values())


def failing_once(act: Callable[[Lease, int, float], None]) -> Callable[[Lease, int, float], None]:
    has_failed: list[bool] = []

    def switched(self: Lease, number: int, pause_us: float) -> None:
        if not has_failed:
            has_failed.append(True)
            raise BrokenPeerError("the daemon has ended")
        act(self, number, pause_us)

    return switched


def test_a_daemon_that_ends_while_a_worker_comes_to_it_leaves_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RuntimeFolder(tmp_path / "run")
    with closing(Kept(Settings(), folder, tmp_path / "one")) as first:
        first.load_lenet()
        here = first.attach_here()
    with here, closing(Kept(Settings(), folder, tmp_path / "two")) as second:
        monkeypatch.setattr(Lease, "switched", failing_once(Lease.switched))
        second.load_lenet()
        second.client.status()
        before = sockets()
        second.client.allow("lenet", os.getpid())
        wait_until(lambda: here.is_connected and second.client.status().workers)
        assert sockets() == before + 1  # its lease
