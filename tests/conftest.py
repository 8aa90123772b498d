"""Fixtures every test shares."""

import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import onnxruntime by themselves, too

# Where nothing may be cached, each of some thousand processes compiles weightd's sources anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# numpy's threads spin as they start, in each process; no test is about them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tests.daemons import (
    EARLY,
    Daemon,
    Kept,
    Worker,
    kept_daemon,
    running_daemon,
    running_worker,
)
from tests.helpers import children, open_descriptors, wait_until

# A shell that starts pytest in the background has it ignore Ctrl-C, and so all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.dont_write_bytecode = False

KINDS = ("/memfd:", "socket:", "pidfd:", "anon_inode:[pidfd", "anon_inode:[event")
GRACE_S = 5.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("gpu") and not Path("/dev/nvidiactl").exists():
        pytest.skip("needs a CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What a test's process sends to the one that prints. Of a name that is no UTF-8, of which a
    test may speak, pytest-xdist would make an end of the run."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    """The same, with text that is no Unicode written out: "\\udcff"."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case list() | tuple():
            return type(value)(map(encodable, value))
        case dict():
            return {encodable(key): encodable(item) for key, item in value.items()}
    return value


def held() -> dict[str, str]:
    """What this process has that outlives a function, and for people what each of them is."""
    descriptors = {
        f"descriptor {fd} {target}": ""
        for fd, target in open_descriptors().items()
        if target.startswith(KINDS)
    }
    processes = {f"child {pid}": command_line(pid) for pid in children()}
    threads = {f"thread {thread.ident}": thread.name for thread in threading.enumerate()}
    return descriptors | processes | threads


def command_line(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "reaped just now"
    return line.replace(b"\0", b" ").decode(errors="replace").strip() or "a zombie"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test may leave a memfd, a socket, a pidfd, an eventfd, a child or a thread behind."""
    before = held().keys()
    yield
    if held().keys() <= before:
        return
    gc.collect()  # a view that waits for the collector keeps its memory
    try:
        wait_until(lambda: held().keys() <= before, timeout_s=GRACE_S)
    except TimeoutError:
        left = [f"{key} {what}" for key, what in held().items() if key not in before]
        pytest.fail("\n  ".join([f"still there {GRACE_S:.0f} s after the test:", *left]))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon that serves nothing yet."""
    with running_daemon() as running:
        yield running


@pytest.fixture
def lenet(daemon: Daemon) -> Daemon:
    """A daemon with the real LeNet-5 as model `lenet`, version 1."""
    daemon.load_lenet()
    return daemon


@pytest.fixture
def worker(lenet: Daemon) -> Iterator[Worker]:
    """A worker process of that daemon: allowed, not attached yet."""
    with running_worker(lenet) as running:
        lenet.client.allow("lenet", running.ask("current_pid")["pid"])
        yield running


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths are at most 107 bytes long. That of tmp_path has the names
    of the user, the run, pytest-xdist's process and the test in it."""
    with tempfile.TemporaryDirectory(prefix="wd-") as path:
        yield Path(path)


@pytest.fixture
def own_runtime(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process shares lies in a folder of the test's, where no daemon answers."""
    monkeypatch.setenv("WEIGHTD_RUNTIME_DIR", str(short_path / "run"))


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A kept daemon with the real LeNet-5 as `lenet`, versions 1 (held) and 2 (live)."""
    with kept_daemon() as daemon:
        daemon.load_lenet()
        daemon.client.publish("lenet", EARLY)
        yield daemon
