"""A daemon that is replaced or stopped, or whose keeper dies; whom its successor takes for whom."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightd
from tests.daemons import FINAL, Kept, kept_daemon, running_worker
from tests.helpers import wait_until
from tests.test_outlive import attached, digest, stagings
from weightd.daemon import main
from weightd.daemon.settings import Settings
from weightd.errors import BusyError, NoDaemonError, NotAllowedError, StoreError
from weightd.ipc import protocol, seqpacket


def test_an_upgrade_reads_nothing_again_and_loses_nobody(kept: Kept) -> None:
    with running_worker(kept) as worker:
        attached(kept, worker)
        before = kept.client.status()
        kept.client.upgrade()
        after = kept.client.status()
        assert (after.pid != before.pid, after.models.keys()) == (True, before.models.keys())
        wait_until(lambda: len(kept.client.status().workers) == 1)
        assert stagings(kept) == 2
        assert kept.process.poll() is None


def test_an_upgrade_without_anybody_who_keeps_the_weights_is_refused(lenet: Any) -> None:
    with pytest.raises(StoreError, match="weightd keeper"):
        lenet.client.upgrade()
    assert lenet.process.poll() is None


def test_an_upgrade_waits_for_nobodys_staging(kept: Kept) -> None:
    refused: list[object] = []

    def meanwhile(_: object) -> None:
        if not refused:
            with weightd.Client(kept.runtime_dir) as other, pytest.raises(BusyError) as error:
                other.upgrade()
            refused.append(error)

    kept.client.publish("lenet", FINAL, on_progress=meanwhile)
    assert len(refused) == 1


def test_a_shutdown_ends_the_keeper_too_and_the_workers_go_on(kept: Kept) -> None:
    with running_worker(kept) as worker:
        attached(kept, worker)
        answer = digest(worker)
        kept.client.shutdown()
        assert kept.process.wait(20) == 0
        assert digest(worker) == answer
        assert list(kept.runtime_dir.iterdir()) == [kept.runtime_dir / "daemon.lock"]


def test_a_worker_of_a_daemon_that_lost_everything_begins_anew(kept: Kept, tmp_path: Path) -> None:
    """The keeper is killed with its daemon; another one knows nothing of the worker's versions."""
    with running_worker(kept) as worker:
        attached(kept, worker)
        daemon = kept.pid
        os.kill(kept.process.pid, signal.SIGKILL)
        os.kill(daemon, signal.SIGKILL)
        kept.process.wait(20)
        wait_until(lambda: not worker.ask("state", model="lenet")["connected"])
        again = Kept(weightd_settings(), kept.folder, tmp_path / "log")
        try:
            again.load_lenet()
            wait_until(lambda: "may not attach" in worker.ask("state", model="lenet")["lag"])
            again.client.allow("lenet", worker.pid)
            worker.ask("wait_for_version", model="lenet", number=1)
            wait_until(lambda: len(again.client.status().workers) == 1)
        finally:
            again.close()


def weightd_settings() -> Settings:
    return Settings()


def test_an_upgrade_after_the_keeper_has_died_is_refused(kept: Kept) -> None:
    daemon = kept.pid
    os.kill(kept.process.pid, signal.SIGKILL)
    kept.process.wait(20)
    try:
        with pytest.raises(StoreError):
            kept.client.upgrade()
        with pytest.raises(StoreError):
            kept.client.publish("lenet", FINAL)
        status = kept.client.status()
        assert (status.pid, status.models["lenet"].live) == (daemon, 2)
        assert any("fd store may be gone" in note for note in status.notes)
    finally:
        kept.client.shutdown()
        wait_until(lambda: not Path(f"/proc/{daemon}").exists())


def test_a_second_keeper_of_a_folder_is_refused_and_the_first_one_goes_on(kept: Kept) -> None:
    os.kill(kept.pid, signal.SIGSTOP)  # so that nothing but the keeper could refuse it
    command = main.kept_command(kept.folder, weightd_settings())
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 2
    assert "another keeper serves this folder already" in second.stderr
    os.kill(kept.pid, signal.SIGCONT)
    kept.kill()
    assert kept.client.publish("lenet", FINAL) == 3


def test_a_worker_of_an_unloaded_model_is_not_taken_for_one_of_the_next_of_its_name() -> None:
    """Its version has the same number, and is not the same."""
    with kept_daemon() as kept, running_worker(kept) as worker:
        kept.client.load("m", {"w": np.zeros(4, np.float32)})
        kept.client.allow("m", worker.pid)
        worker.ask("attach", model="m")
        kept.client.unload("m")
        kept.client.load("m", {"w": np.ones(4, np.float32)})
        kept.client.allow("m", worker.pid)
        assert worker.ask("read", model="m", name="w") == {"values": [0.0] * 4}
        kept.kill()
        ones = {"values": [1.0] * 4}
        wait_until(lambda: worker.ask("read", model="m", name="w") == ones)


def test_a_socket_offered_as_a_file_or_folder_is_refused(kept: Kept) -> None:
    here, there = socket.socketpair()
    file = os.open(FINAL, os.O_RDONLY)
    folder = os.open(FINAL.parent, os.O_RDONLY)
    try:
        for fds in ([here.fileno()], [file, there.fileno()], [file, file]):
            with seqpacket.connect(kept.folder.admin, max_fds=0, timeout_s=10) as connection:
                offer = protocol.Offer("x", has_folder=len(fds) == 2)
                connection.send(protocol.encode(offer), fds)
                answer = protocol.decode(connection.receive().raw, protocol.Failed)
                assert answer.code == "BadRequestError"
    finally:
        here.close()
        there.close()
        os.close(file)
        os.close(folder)


def test_events_go_on_with_the_next_daemon(kept: Kept) -> None:
    seen: list[str] = []

    def follow() -> None:
        with weightd.Client(kept.runtime_dir) as client:
            for event in client.events("lenet"):
                seen.append(event.what)
                if event.what == "published":
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    for _ in range(2):
        kept.kill()
    while follower.is_alive():  # it may have to subscribe first
        kept.client.publish("lenet", FINAL)
        follower.join(0.5)
    assert "published" in seen


def test_no_daemon_is_started_where_a_keeper_is_between_two(kept: Kept) -> None:
    os.kill(kept.process.pid, signal.SIGSTOP)
    daemon = kept.pid
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: "State:\tZ" in Path(f"/proc/{daemon}/status").read_text())
    command = [sys.executable, "-P", "-m", "weightd.cli", "serve", "--runtime-dir"]
    argv = [*command, str(kept.runtime_dir)]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 2
    assert "a keeper serves" in second.stderr
    hasty = weightd.Client(kept.runtime_dir, timeout_s=0.2)
    with hasty, pytest.raises(NoDaemonError, match="a keeper starts it again"):
        hasty.status()
    os.kill(kept.process.pid, signal.SIGCONT)
    assert kept.client.publish("lenet", FINAL) == 3


def test_who_was_never_let_in_is_not_let_in_by_a_restart(kept: Kept) -> None:
    kept.kill()
    with pytest.raises(NotAllowedError):
        weightd.attach("lenet", runtime_dir=kept.runtime_dir)
