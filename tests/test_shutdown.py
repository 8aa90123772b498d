"""A daemon that is told to stop: exit 0, nothing left behind, and the workers go on."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import weightd
from tests.daemons import FINAL, Daemon, Worker, running_daemon
from tests.helpers import wait_until
from weightd.errors import BrokenPeerError, CancelledError, NoDaemonError, WeightdError
from weightd.ipc import protocol

BIG = {"t": np.zeros(2**24, np.float32)}


def sockets(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in daemon.runtime_dir.iterdir() if path.is_socket())


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_and_workers_go_on_with_right_answers(
    lenet: Daemon, worker: Worker, number: int
) -> None:
    worker.ask("attach", model="lenet")
    answer = worker.ask("predict", model="lenet")["digests"]
    assert sockets(lenet) == ["admin.sock", "attach.sock", "control.sock", "events.sock"]
    worker.send("predict", model="lenet", count=3000)
    assert lenet.stop(number) == 0
    assert worker.answer()["digests"] == answer
    wait_until(lambda: not worker.ask("state", model="lenet")["connected"])
    assert (
        worker.ask("state", model="lenet")["lag"]
        == f"the daemon stops ({signal.Signals(number).name})"
    )
    assert worker.ask("predict", model="lenet")["digests"] == answer
    assert sockets(lenet) == []


def test_a_worker_that_was_busy_learns_why_the_daemon_went(lenet: Daemon, worker: Worker) -> None:
    """It sends first, to one that is gone, and hears the good-bye only then."""
    worker.ask("attach", model="lenet")
    os.kill(worker.pid, signal.SIGSTOP)
    lenet.client.publish("lenet", FINAL)
    assert lenet.stop() == 0
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: not worker.ask("state", model="lenet")["connected"])
    assert worker.ask("state", model="lenet")["lag"] == "the daemon stops (SIGTERM)"


def test_a_signal_right_after_ready_ends_it_well() -> None:
    for _ in range(3):
        with running_daemon() as daemon:
            assert daemon.stop() == 0
            assert sockets(daemon) == []


def test_shutdown_by_request_is_answered_and_ends_it_well(lenet: Daemon) -> None:
    lenet.client.shutdown()
    assert lenet.process.wait(20) == 0
    assert sockets(lenet) == []
    with pytest.raises(NoDaemonError, match="weightd keeper --runtime-dir"):
        lenet.client.status()


def test_stopping_during_a_load_cancels_it_and_leaves_no_stager(daemon: Daemon) -> None:
    outcome: list[WeightdError] = []

    def load() -> None:
        with weightd.Client(daemon.runtime_dir) as client, pytest.raises(WeightdError) as caught:
            client.load("big", BIG)
        outcome.append(caught.value)

    thread = threading.Thread(target=load)
    thread.start()
    # Not by the daemon's children: one that is stopped before it has become a stager keeps the
    # daemon in vfork().
    wait_until(lambda: daemon.client.status().staging)
    (stager,) = (staging.pid for staging in daemon.client.status().staging)
    os.kill(stager, signal.SIGSTOP)
    assert daemon.stop() == 0
    thread.join()
    assert isinstance(outcome[0], CancelledError | BrokenPeerError)
    assert not Path(f"/proc/{stager}").exists()


def test_a_stager_dies_with_a_daemon_that_is_killed(daemon: Daemon) -> None:
    thread = threading.Thread(target=failing_load, args=(daemon,))
    thread.start()
    wait_until(lambda: children_of(daemon.pid))
    (stager,) = children_of(daemon.pid)
    daemon.stop(signal.SIGKILL)
    wait_until(lambda: not is_running(stager))
    thread.join()


def failing_load(daemon: Daemon) -> None:
    with weightd.Client(daemon.runtime_dir) as client, pytest.raises(BrokenPeerError):
        client.load("big", BIG)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_events_say_that_it_stops(daemon: Daemon) -> None:
    with weightd.Client(daemon.runtime_dir) as client:
        events: Iterator[protocol.Event] = client.events()
        seen: list[str] = []
        thread = threading.Thread(target=lambda: take_until(events, "stopping", seen))
        thread.start()
        # A subscription takes a moment to arrive: until then nothing is heard.
        daemon.load_lenet()
        wait_until(lambda: daemon.client.allow("lenet", os.getpid()) and seen)
        daemon.stop()
        thread.join(20)
    assert seen[-1] == "stopping"


def take_until(events: Iterator[protocol.Event], last: str, to: list[str]) -> None:
    for event in events:
        to.append(event.what)
        if event.what == last:
            break
    events.close()  # type: ignore[attr-defined]  # the generator, in the thread that ran it
