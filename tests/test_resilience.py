"""The daemon under want: another user's, no descriptors left, many models, its own lock as bait."""

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.daemons import FINAL, LENET, Daemon, running_daemon, running_worker
from tests.helpers import wait_until
from weightd.daemon import main
from weightd.daemon.settings import Settings
from weightd.errors import BadFileError, BadRequestError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.runtime import RuntimeFolder

OTHER_UID = 1234
# It may look into folders, since the tests' Python can lie in one of root's; nothing else.
AS_OTHER = (
    "setpriv",
    f"--reuid={OTHER_UID}",
    f"--regid={OTHER_UID}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
    "--bounding-set=-all,+dac_read_search",
)
FEW_DESCRIPTORS = ("prlimit", "--nofile=64:64")


@pytest.fixture
def others_folder() -> Iterator[Path]:
    """A folder of another user."""
    with tempfile.TemporaryDirectory(prefix="wd-", dir="/tmp") as path:
        os.chown(path, OTHER_UID, OTHER_UID)
        yield Path(path)


@pytest.mark.root
def test_a_daemon_of_an_ordinary_user_loads_publishes_and_serves(others_folder: Path) -> None:
    daemon = Daemon(
        Settings(), RuntimeFolder(others_folder / "run"), others_folder / "log", prefix=AS_OTHER
    )
    try:
        assert daemon.load_lenet() == 1
        assert daemon.client.publish("lenet", FINAL) == 2
        with daemon.attach_here() as model:
            assert model.predict({"x": np.zeros((1, 1, 32, 32), np.float32)})
        assert daemon.client.status().models["lenet"].owner_uid == 0
        assert daemon.stop() == 0
    finally:
        daemon.close()
    assert "Traceback" not in daemon.log()


def test_every_configured_model_is_loaded_however_many() -> None:
    models = {f"m{n}": str(FINAL) for n in range(6)}
    with running_daemon(models={**models, "broken": "/etc/hostname"}) as daemon:
        wait_until(lambda: len(daemon.client.status().models) == 6, timeout_s=30)
        wait_until(lambda: "model broken was not loaded" in daemon.log())


@pytest.mark.parametrize("in_threads", [False, True])
def test_a_daemon_without_descriptors_refuses_and_lives(*, in_threads: bool) -> None:
    with running_daemon(prefix=FEW_DESCRIPTORS, read_in_threads=in_threads) as daemon:
        daemon.load_lenet()
        with ExitStack() as idle:
            for _ in range(100):
                sock = idle.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                sock.settimeout(5)
                sock.connect(str(daemon.folder.attach))
            _loads(daemon)  # or is refused by name: the silent make room for some of it
            assert "lenet" in daemon.client.status().models
        wait_until(lambda: _loads(daemon), timeout_s=20)


def _loads(daemon: Daemon) -> bool:
    try:
        return daemon.client.load("second", LENET, dry_run=True) == 1
    except WeightdError:
        return False


def test_offering_the_lock_file_as_a_model_does_not_drop_the_lock(daemon: Daemon) -> None:
    with pytest.raises(BadFileError):
        daemon.client.load("bait", daemon.folder.lock)
    second = subprocess.run(
        main.command(daemon.folder, Settings()), capture_output=True, text=True, check=False
    )
    assert second.returncode == main.USER_MISTAKE
    assert f"pid {daemon.pid}" in second.stderr


def test_an_array_kept_after_close_costs_no_cpu(lenet: Daemon) -> None:
    model = lenet.attach_here()
    kept = model.weights["fc1.bias"]
    model.close()
    lenet.client.publish("lenet", FINAL)  # a notice that nobody wants any more
    wait_until(lambda: lenet.client.status().models["lenet"].live == 2)
    started = time.process_time()
    threading.Event().wait(0.5)
    assert time.process_time() - started < 0.2
    assert kept[0] == kept[0]


@pytest.mark.parametrize("pause_us", [float("nan"), float("inf"), -1.0])
def test_a_worker_cannot_report_a_pause_that_is_no_duration(pause_us: float) -> None:
    raw = protocol.pack({"type": "Switched", "version": 1, "pause_us": pause_us})
    with pytest.raises(BadRequestError):
        protocol.decode(raw, protocol.AttachRequest)


def test_a_file_name_that_is_not_utf8_is_a_name_like_any_other(
    daemon: Daemon, tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.onnx"
    Path(os.fsdecode(path)).write_bytes(LENET.read_bytes())
    assert daemon.client.load("odd", os.fsdecode(path)) == 1
    assert "\ufffd.onnx" in daemon.client.status().models["odd"].source


def test_what_an_auditor_wants_is_in_the_log(lenet: Daemon) -> None:
    with running_worker(lenet) as worker:
        pid = worker.ask("current_pid")["pid"]
        lenet.client.allow("lenet", pid)
        lenet.client.publish("lenet", FINAL)
        assert lenet.client.rollback("lenet") == 1
        lenet.client.revoke("lenet")
        lenet.client.unload("lenet")
    by_whom = f"pid {os.getpid()} pids {pid}"
    for line in (
        f"allowed lenet {by_whom}",
        "rolled-back lenet version 1",
        f"revoked lenet {by_whom}",
        "unloaded lenet",
    ):
        assert line in lenet.log()
