"""client.py: from many threads, against daemons that are stopped, gone or busy."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightd
from tests.daemons import EARLY, LENET, Daemon, Worker, running_daemon, running_worker
from tests.helpers import wait_until
from weightd.daemon.settings import Settings
from weightd.errors import (
    BadFileError,
    BadRequestError,
    ClosedError,
    DaemonTimeoutError,
    ForkedError,
    NoDaemonError,
    RefusedError,
    UnknownModelError,
    WeightdError,
)


@pytest.fixture
def stopped(lenet: Daemon) -> Iterator[Daemon]:
    """A daemon that hangs."""
    os.kill(lenet.pid, signal.SIGSTOP)
    yield lenet
    os.kill(lenet.pid, signal.SIGCONT)


REQUESTS: list[Callable[[weightd.Client], object]] = [
    lambda client: client.status(),
    lambda client: client.load("m", LENET),
    lambda client: client.rollback("lenet"),
]


@pytest.mark.parametrize("ask", REQUESTS, ids=["status", "load", "rollback"])
def test_a_daemon_that_hangs_is_given_up_in_time(
    stopped: Daemon, ask: Callable[[weightd.Client], object]
) -> None:
    with weightd.Client(stopped.runtime_dir, timeout_s=0.3) as client:
        started = time.monotonic()
        with pytest.raises(DaemonTimeoutError, match=r"0\.3 s"):
            ask(client)
        assert 0.25 < time.monotonic() - started < 3


def test_a_hanging_daemon_with_a_full_queue_is_not_called_gone(stopped: Daemon) -> None:
    waiting: list[socket.socket] = []
    with contextlib.ExitStack() as resources:
        with contextlib.suppress(BlockingIOError):
            while len(waiting) < 10_000:
                waiting.append(resources.enter_context(socket.socket(socket.AF_UNIX)))
                waiting[-1].setblocking(False)
                waiting[-1].connect(os.fspath(stopped.folder.control))
        assert len(waiting) < 10_000
        client = resources.enter_context(weightd.Client(stopped.runtime_dir, timeout_s=0.3))
        with pytest.raises(DaemonTimeoutError):
            client.status()


def test_a_late_answer_is_not_taken_for_the_next_ones(lenet: Daemon) -> None:
    with weightd.Client(lenet.runtime_dir, timeout_s=0.3) as client:
        os.kill(lenet.pid, signal.SIGSTOP)
        with pytest.raises(DaemonTimeoutError):
            client.current_pid()
        os.kill(lenet.pid, signal.SIGCONT)
        assert client.status().pid == lenet.pid
        assert client.current_pid() == os.getpid()


@pytest.mark.parametrize("ask", REQUESTS, ids=["status", "load", "rollback"])
def test_without_a_daemon_the_error_says_how_to_start_one(
    ask: Callable[[weightd.Client], object], tmp_path: Path
) -> None:
    with (
        weightd.Client(tmp_path) as client,
        pytest.raises(NoDaemonError, match=f"weightd keeper --runtime-dir {tmp_path}"),
    ):
        ask(client)


def test_a_client_outlives_the_daemon_and_speaks_to_the_next(
    daemon: Daemon, tmp_path: Path
) -> None:
    first = daemon.client.status().pid
    daemon.stop()
    with pytest.raises(NoDaemonError):
        daemon.client.status()
    again = Daemon(Settings(), daemon.folder, tmp_path / "log")
    try:
        assert daemon.client.status().pid == again.pid != first
    finally:
        again.close()


def test_eight_threads_each_get_their_own_answers(lenet: Daemon) -> None:
    lenet.client.publish("lenet", EARLY)
    wrong: list[object] = []

    def ask(number: int) -> None:
        try:
            for _ in range(30):
                if lenet.client.current_pid() != os.getpid():
                    wrong.append("pid")
                if lenet.client.status().pid != lenet.pid:
                    wrong.append("status")
                with pytest.raises(UnknownModelError, match=f"m{number}'"):
                    lenet.client.rollback(f"m{number}")
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    lenet.client.close()  # its idle sockets, one for each thread


@pytest.mark.parametrize("what", ["an answer", "events"])
def test_closing_ends_what_other_threads_wait_for(stopped: Daemon, what: str) -> None:
    client = weightd.Client(stopped.runtime_dir, timeout_s=60)
    faults: list[BaseException] = []

    def wait() -> None:
        try:
            if what == "events":
                next(iter(client.events()))
            else:
                client.status()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            faults.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: client._link._channel._in_use == 3)
    client.close()
    client.close()
    for thread in threads:
        thread.join()
    assert [type(fault) for fault in faults] == [ClosedError] * 3
    with pytest.raises(ClosedError, match="this Client was closed"):
        client.status()


def test_a_client_is_not_for_a_forked_child(daemon: Daemon) -> None:
    daemon.client.status()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            daemon.client.status()
        except ForkedError as error:
            os.write(write_end, str(error).encode())
        daemon.client.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert b"made before a fork" in os.read(read_end, 1000)
    assert daemon.client.status().pid == daemon.pid
    os.close(read_end)
    os.close(write_end)


def test_events_tell_what_happens_to_the_models_that_were_asked_for(
    lenet: Daemon, worker: Worker
) -> None:
    seen: list[tuple[str, int, int]] = []

    def listen() -> None:
        with weightd.Client(lenet.runtime_dir) as client:
            events = client.events("lenet")
            for event in events:
                seen.append((event.what, event.version, event.pid))
                if event.what == "detached":
                    break
            events.close()  # type: ignore[attr-defined]  # a generator

    thread = threading.Thread(target=listen)
    thread.start()
    # A subscription takes a moment to arrive: until then nothing is heard.
    wait_until(lambda: lenet.client.allow("lenet", worker.pid) and seen)
    seen.clear()
    worker.ask("attach", model="lenet")
    assert lenet.client.publish("lenet", EARLY) == 2
    worker.ask("wait_for_version", model="lenet", number=2)
    lenet.client.load("other", {"a": np.zeros(1)})
    wait_until(lambda: ("switched", 2, worker.pid) in seen)
    worker.close()
    thread.join(20)
    for event in [
        ("attached", 1, worker.pid),
        ("published", 2, 0),
        ("switched", 2, worker.pid),
        ("detached", 2, worker.pid),
    ]:
        assert event in seen
    assert "loaded" not in {what for what, _, _ in seen}


def test_a_process_that_ends_while_another_holds_its_connection_is_told_as_detached() -> None:
    with running_daemon(log_level="DEBUG") as daemon, running_worker(daemon) as worker:
        daemon.load_lenet()
        daemon.client.allow("lenet", worker.pid)
        worker.ask("attach", model="lenet")
        kept = copies_of_sockets(worker.pid)
        worker.close()
        wait_until(lambda: daemon.client.status().workers == ())
        for fd in kept:
            os.close(fd)
        assert f"detached lenet version 1 pid {worker.pid}" in daemon.log()


def copies_of_sockets(pid: int) -> list[int]:
    """What a forked child would have: a copy of each socket of the process."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(path).startswith("socket:"):
            fd = libc.syscall(438, pidfd, int(path.name), 0)  # pidfd_getfd
            assert fd >= 0
            found.append(fd)
    os.close(pidfd)
    return found


WRONG: list[tuple[Callable[[weightd.Client], Any], type[WeightdError]]] = [
    (lambda c: c.allow("lenet", 0), BadRequestError),
    (lambda c: c.allow("lenet", -1), BadRequestError),
    (lambda c: c.allow("lenet", 2**40), BadRequestError),
    (lambda c: c.rollback("lenet", 0), BadRequestError),
    (lambda c: c.rollback("lenet", 2**64), BadRequestError),
    (lambda c: c.load("m", LENET, engine="fast"), BadRequestError),
    (lambda c: c.load("m", LENET.parent), BadFileError),
    (lambda c: c.load("m", {"a": np.array(["text"])}), BadFileError),
    (lambda c: c.load("m", {"a": np.zeros(1, ">f4")}), BadFileError),
    (lambda c: c.unload("nobody"), UnknownModelError),
    (lambda c: c.allow("lenet", []), RefusedError),
]


def test_what_is_asked_amiss_is_refused_and_the_daemon_goes_on(lenet: Daemon) -> None:
    for ask, error in WRONG:
        with pytest.raises(error):
            ask(lenet.client)
    assert list(lenet.client.status().models) == ["lenet"]
