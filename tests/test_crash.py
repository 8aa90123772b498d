"""Workers and daemons that are killed: what they held comes back, and the others go on."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import EARLY, FINAL, Daemon, Worker, running_daemon, running_worker
from tests.helpers import wait_until
from weightd.daemon import main
from weightd.daemon.settings import Settings
from weightd.errors import NoDaemonError
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder


def attached(daemon: Daemon, worker: Worker) -> str:
    """Allow and attach a worker; returns the digest of its answer."""
    daemon.client.allow("lenet", worker.pid)
    assert "error" not in worker.ask("attach", model="lenet")
    return digest(worker)


def digest(worker: Worker) -> str:
    (found,) = worker.ask("predict", model="lenet")["digests"]
    return str(found)


# --- workers -----------------------------------------------------------------------------


def test_a_killed_worker_releases_what_it_held_and_the_others_go_on(lenet: Daemon) -> None:
    with running_worker(lenet) as one, running_worker(lenet) as two:
        answer = attached(lenet, one)
        attached(lenet, two)
        assert lenet.leases() == {1: 2}
        os.kill(two.pid, signal.SIGKILL)
        wait_until(
            lambda: lenet.leases() == {1: 1}
        )  # by its connection; the whitelist by its pidfd
        wait_until(lambda: lenet.client.status().models["lenet"].allowed_pids == (one.pid,))
        assert digest(one) == answer


def test_a_worker_stopped_before_its_switch_and_killed_holds_one_version_until_then() -> None:
    with running_daemon(keep=1) as daemon:
        daemon.load_lenet()
        with running_worker(daemon) as one, running_worker(daemon) as two:
            attached(daemon, one)
            attached(daemon, two)
            os.kill(two.pid, signal.SIGSTOP)
            for number, file in enumerate([EARLY, FINAL, EARLY], 2):
                assert daemon.client.publish("lenet", file) == number
                one.ask("wait_for_version", model="lenet", number=number)
            wait_until(lambda: daemon.leases() == {1: 1, 4: 1})
            lags = {w.pid: w.lag for w in daemon.client.status().workers}
            assert lags == {one.pid: "", two.pid: "notified"}
            os.kill(two.pid, signal.SIGKILL)
            wait_until(lambda: daemon.leases() == {4: 1})


def test_a_worker_killed_in_the_middle_of_a_switch_releases_both_versions(lenet: Daemon) -> None:
    ready, say_ready = os.pipe()
    go, say_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        lease = Lease(lenet.folder, timeout_s=10)
        os.read(go, 1)
        lease.attach("lenet", None)
        os.write(say_ready, b"1")
        os.read(go, 1)
        lease.pull()
        os.write(say_ready, b"2")
        signal.pause()
    lenet.client.allow("lenet", pid)
    os.write(say_go, b"1")
    os.read(ready, 1)
    lenet.client.publish("lenet", EARLY)
    os.write(say_go, b"2")
    os.read(ready, 1)
    assert lenet.leases() == {1: 1, 2: 1}
    assert [w.lag for w in lenet.client.status().workers] == ["switching"]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: lenet.leases() == {1: 0, 2: 0})
    for fd in (ready, say_ready, go, say_go):
        os.close(fd)


def test_a_worker_killed_after_its_switch_releases_the_new_version(
    lenet: Daemon, worker: Worker
) -> None:
    worker.ask("attach", model="lenet")
    lenet.client.publish("lenet", EARLY)
    worker.ask("wait_for_version", model="lenet", number=2)
    wait_until(lambda: lenet.leases() == {1: 0, 2: 1})
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: lenet.leases() == {1: 0, 2: 0})


@pytest.mark.stress
def test_workers_killed_at_any_moment_of_a_switch_leave_nothing(lenet: Daemon) -> None:
    lenet.client.publish("lenet", EARLY)
    for _ in range(4):
        with running_worker(lenet) as one, running_worker(lenet) as two:
            for worker in (one, two):
                attached(lenet, worker)
                worker.send("predict", model="lenet", count=100_000)
            lenet.client.rollback("lenet")
            os.kill(one.pid, signal.SIGKILL)
            lenet.client.rollback("lenet")
            os.kill(two.pid, signal.SIGKILL)
        wait_until(lambda: set(lenet.leases().values()) == {0})
    assert lenet.client.status().workers == ()


# --- the daemon --------------------------------------------------------------------------


def test_workers_go_on_when_the_daemon_is_killed(lenet: Daemon, worker: Worker) -> None:
    worker.ask("attach", model="lenet")
    answer = digest(worker)
    lenet.stop(signal.SIGKILL)
    wait_until(lambda: not worker.ask("state", model="lenet")["connected"])
    assert digest(worker) == answer
    assert worker.ask("detach", model="lenet") == {}
    with pytest.raises(NoDaemonError, match="weightd keeper"):
        lenet.client.status()


def test_a_new_daemon_starts_at_once_where_one_was_killed(lenet: Daemon, tmp_path: Path) -> None:
    worker_less = lenet.client.status().incarnation
    lenet.stop(signal.SIGKILL)
    assert lenet.folder.attach.exists()
    again = Daemon(Settings(), lenet.folder, tmp_path / "log")
    try:
        status = again.client.status()
        assert status.incarnation != worker_less
        assert status.models == {}
        again.load_lenet()
        with again.attach_here() as here:
            assert here.version == 1
    finally:
        assert again.stop() == 0
        again.close()


def test_a_second_daemon_on_a_folder_is_refused_with_status_two(daemon: Daemon) -> None:
    command = main.command(daemon.folder, Settings())
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == main.USER_MISTAKE == 2
    assert f"a daemon (pid {daemon.pid}) serves {daemon.runtime_dir} already" in second.stderr
    assert "Traceback" not in second.stderr
    assert daemon.client.status().pid == daemon.pid


def too_long(tmp_path: Path) -> Path:
    return tmp_path / ("x" * 120)


def writable_by_others(tmp_path: Path) -> Path:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    return tmp_path / "open"


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


def with_a_folder_for_a_lock(tmp_path: Path) -> Path:
    (tmp_path / "run" / "daemon.lock").mkdir(parents=True, mode=0o700)
    return tmp_path / "run"


@pytest.mark.parametrize("make", [too_long, writable_by_others, a_file, with_a_folder_for_a_lock])
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    command = main.command(RuntimeFolder(make(tmp_path)), Settings())
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("models", [{"m": "/none.onnx"}, {"m": "/dev"}])
def test_a_model_that_cannot_be_opened_at_start_is_refused_or_logged(
    models: dict[str, str], tmp_path: Path
) -> None:
    with running_daemon() as daemon:  # one that is there, to see that it is left alone
        folder = RuntimeFolder(tmp_path / "run")
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(main.command(folder, Settings(models=models)), stderr=file)
        try:
            wait_until(lambda: process.poll() is not None or "was not loaded" in log.read_text())
            assert process.poll() in (None, 2)
        finally:
            process.terminate()
            process.wait(20)
        assert "Traceback" not in log.read_text()
        assert daemon.client.status().models == {}


def test_the_daemon_holds_no_numpy_and_no_engine(lenet: Daemon) -> None:
    lenet.client.publish("lenet", EARLY)
    maps = Path(f"/proc/{lenet.pid}/maps").read_text()
    for library in ("numpy", "onnx", "ml_dtypes"):
        assert library not in maps
    assert maps.count("memfd:weightd") == 2


def test_the_memory_of_a_killed_daemon_is_the_kernels_again_when_the_last_worker_ends(
    lenet: Daemon, worker: Worker
) -> None:
    worker.ask("attach", model="lenet")
    lenet.stop(signal.SIGKILL)
    maps = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "memfd:weightd:lenet.v1" in maps
    worker.ask("detach", model="lenet")
    wait_until(lambda: "memfd:weightd" not in Path(f"/proc/{worker.pid}/maps").read_text())
