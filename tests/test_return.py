"""link.py and watcher.py: clients and workers of a daemon that ends meanwhile and comes back."""

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightd
from tests.daemons import EARLY, FINAL, LENET, Daemon, Kept, kept_daemon, running_worker
from tests.helpers import wait_until
from tests.test_identity import USER, as_user
from weightd import link as links
from weightd.backends import watcher as watchers
from weightd.backends.attachment import Attachment
from weightd.backends.version import MappedVersion
from weightd.daemon.settings import Settings
from weightd.errors import (
    DaemonTimeoutError,
    EngineMismatchError,
    LostDaemonError,
    NoAccessError,
    NoDaemonError,
)
from weightd.ipc import protocol
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder
from weightd.link import Link


@pytest.fixture
def kept() -> Iterator[Kept]:
    with kept_daemon() as daemon:
        daemon.load_lenet()
        yield daemon


# --- clients -----------------------------------------------------------------------------


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(links, "time", self)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    folder = RuntimeFolder(tmp_path / "run")
    folder.create(0o700)
    made = Link(folder, timeout_s=5.0)
    yield made
    made.close()


def test_a_daemon_that_ends_after_long_work_is_waited_for_from_that_moment(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    link.folder.keeper.touch()
    told: list[bool] = []

    def attempt(is_repeated: bool) -> str:
        told.append(is_repeated)
        if len(told) == 1:
            raise NoDaemonError("not there yet")
        if len(told) == 2:
            clock.now_s += 600  # of staging
            raise LostDaemonError("killed")
        if clock.now_s < 1604:
            raise NoDaemonError("not there yet")
        return "done"

    assert link.repeated(attempt) == "done"
    assert told[:2] == [False, False]
    assert set(told[2:]) == {True}


@pytest.mark.parametrize(("is_kept", "was_there", "limit_s"), [
    (True, False, 5.0), (True, True, 5.0), (False, True, 2.0), (False, False, 0.0),
])  # fmt: skip
def test_nobody_waits_longer_than_somebody_could_come(
    link: Link, monkeypatch: pytest.MonkeyPatch, is_kept: bool, was_there: bool, limit_s: float
) -> None:
    clock = Clock(monkeypatch)
    if is_kept:
        link.folder.keeper.touch()
    tries: list[bool] = []

    def attempt(is_repeated: bool) -> None:
        tries.append(is_repeated)
        raise LostDaemonError("killed") if was_there and len(tries) == 1 else NoDaemonError("none")

    with pytest.raises(NoDaemonError):
        link.repeated(attempt)
    assert limit_s <= clock.now_s - 1000.0 <= limit_s + 0.1


def test_who_is_not_let_in_does_not_wait_for_it(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    link.folder.keeper.touch()

    def attempt(_: bool) -> None:
        raise NoAccessError("another user's")

    with pytest.raises(NoAccessError):
        link.repeated(attempt)
    assert clock.now_s == 1000.0


def test_sockets_that_the_next_daemon_is_making_are_waited_for(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    link.folder.keeper.touch()
    met = [NoDaemonError("away"), NoAccessError("not its group's yet")]

    def attempt(_: bool) -> str:
        if met:
            raise met.pop(0)
        return "done"

    assert link.repeated(attempt) == "done"


def test_a_daemon_that_is_silent_is_not_asked_twice(link: Link) -> None:
    tries: list[bool] = []

    def attempt(is_repeated: bool) -> None:
        tries.append(is_repeated)
        raise DaemonTimeoutError("silent")

    with pytest.raises(DaemonTimeoutError):
        link.repeated(attempt)
    assert tries == [False]


def asked(link: Link, request: Callable[[int], protocol.ControlRequest], file: object) -> int:
    """By hand, with a ticket of its own."""
    with link._offered("lenet", file) as ticket:  # type: ignore[arg-type]
        return link.ask_once(request(ticket), protocol.Live).version


def test_a_request_that_is_repeated_is_carried_out_once(kept: Kept) -> None:
    """The answer got lost with the daemon, or with the connection."""
    link = Link(kept.folder, 20)
    rules = protocol.Publish("m", 0).names
    bias = {"fc3.bias": np.zeros(10, np.float32)}

    def load(ticket: int) -> protocol.ControlRequest:
        return protocol.Load("again", ticket, once=71)

    def publish(ticket: int) -> protocol.ControlRequest:
        return protocol.Publish("lenet", ticket, False, rules, 72)

    def update(ticket: int) -> protocol.ControlRequest:
        return protocol.Update("lenet", ticket, False, 73)

    back = protocol.Rollback("lenet", None, 74)
    assert [asked(link, load, LENET) for _ in range(2)] == [1, 1]
    assert [asked(link, publish, EARLY) for _ in range(2)] == [2, 2]
    assert [asked(link, update, bias) for _ in range(2)] == [3, 3]
    assert [link.ask_once(back, protocol.Live).version for _ in range(2)] == [2, 2]
    kept.kill()
    wait_until(lambda: kept.client.status().pid)
    assert link.ask(back, protocol.Live).version == 2
    assert asked(link, update, bias) == 3
    assert asked(link, load, LENET) == 1
    assert kept.versions() == [(2, "LIVE"), (3, "HELD")]
    assert kept.client.publish("lenet", FINAL) == 4
    link.close()


def test_a_request_is_carried_out_once_whatever_became_of_its_version(kept: Kept) -> None:
    """Others were faster than the one who asks again: his version is replaced and freed, his model
    unloaded."""
    link = Link(kept.folder, 20)

    def load(ticket: int) -> protocol.ControlRequest:
        return protocol.Load("again", ticket, once=71)

    def publish(ticket: int) -> protocol.ControlRequest:
        return protocol.Publish("lenet", ticket, once=72)

    number = asked(link, publish, EARLY)
    back = protocol.Rollback("lenet", None, 74)
    assert link.ask_once(back, protocol.Live).version == number - 1
    assert asked(link, load, LENET) == 1
    kept.client.publish("lenet", FINAL)
    kept.client.publish("lenet", EARLY)
    kept.client.unload("again")
    before = kept.versions()
    assert number not in dict(before)
    kept.kill()
    wait_until(lambda: kept.client.status().pid)
    assert asked(link, publish, EARLY) == number
    assert link.ask_once(back, protocol.Live).version == number - 1
    assert asked(link, load, LENET) == 1
    assert kept.versions() == before
    assert list(kept.client.status().models) == ["lenet"]
    link.close()


# --- workers -----------------------------------------------------------------------------


def watching() -> int:
    return sum(thread.name.startswith("weightd:") for thread in threading.enumerate())


def test_closing_while_the_daemon_is_away_ends_the_thread_at_once(
    lenet: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "_FIRST_RETRY_S", 60.0)
    here = lenet.attach_here()
    lenet.stop(signal.SIGKILL)
    wait_until(lambda: not here.is_connected)
    assert watching() == 1
    here.close()
    wait_until(lambda: watching() == 0, timeout_s=2)


def test_many_attachments_come_back(kept: Kept) -> None:
    kept.client.load("other", EARLY)
    with ExitStack() as resources:
        here = [resources.enter_context(kept.attach_here(n)) for n in ("lenet", "other") * 3]
        kept.kill()
        began_s = time.monotonic()
        wait_until(lambda: len(kept.client.status().workers) == 6)
        assert time.monotonic() - began_s < 5
        kept.client.publish("lenet", FINAL)
        for each in here[::2]:
            each.wait_for_version(2, timeout_s=10)
        assert all(each.is_connected for each in here)


def test_a_forked_child_does_not_take_its_parents_lease(kept: Kept) -> None:
    with running_worker(kept) as worker:
        kept.client.allow("lenet", worker.pid)
        worker.ask("attach", model="lenet")
        answer = worker.ask("fork_and_wait", model="lenet")
        kept.kill()
        wait_until(lambda: [w.pid for w in kept.client.status().workers] == [worker.pid])
        wait_until(lambda: worker.ask("state", model="lenet")["connected"])
        os.kill(answer["child"], signal.SIGKILL)
        assert [w.pid for w in kept.client.status().workers] == [worker.pid]
        assert worker.ask("state", model="lenet")["connected"]


def test_a_worker_that_is_not_let_in_again_says_so_once(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchers, "_NOT_ALLOWED_RETRY_S", 0.02)
    refused = 0
    attach_again = watchers.Watcher._attach_again

    def counted(watcher: watchers.Watcher) -> None:
        nonlocal refused
        try:
            attach_again(watcher)
        except weightd.errors.RefusedError:
            refused += 1
            raise

    monkeypatch.setattr(watchers.Watcher, "_attach_again", counted)
    caplog.set_level(logging.INFO, "weightd.worker")
    with kept.attach_here() as here:
        kept.client.revoke("lenet", os.getpid())
        kept.kill()
        wait_until(lambda: refused >= 5)
        assert "may not attach" in here.lag
        said = [m for m in caplog.messages if "does not let this process in" in m]
        assert len(said) == 1
        kept.client.allow("lenet", os.getpid())
        wait_until(lambda: here.is_connected)
        assert here.lag == ""
        back = [r.levelname for r in caplog.records if "is at the daemon again" in r.message]
        assert back == ["WARNING"]  # whoever read that it is away reads that it is not


@pytest.mark.root
def test_a_worker_whom_the_socket_lets_in_no_more_says_so_and_comes_back() -> None:
    with kept_daemon(attach_public=True) as kept:
        outside = kept.runtime_dir.parent
        outside.chmod(0o711)
        kept.load_lenet()
        with running_worker(kept, prefix=as_user(USER)) as worker:
            kept.client.allow("lenet", worker.ask("current_pid")["pid"])
            worker.ask("attach", model="lenet")
            outside.chmod(0o700)
            kept.kill()
            wait_until(lambda: "lets this one not in" in worker.ask("state", model="lenet")["lag"])
            outside.chmod(0o711)
            wait_until(lambda: worker.ask("state", model="lenet")["connected"])


# --- what a worker must not miss, nor take for another ---------------------------------------


def weights(number: int) -> dict[str, Any]:
    """So much that stays the same that a version after it uses its memory, too."""
    same = {f"same{n}": np.zeros(4096, np.float32) for n in range(7)}
    return {**same, "other": np.full(4096, number, np.float32)}


def test_a_version_published_while_a_worker_attaches_is_not_missed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notice comes with the answer to a Fetch, and wakes nobody by itself."""
    kept.client.load("m", weights(1))
    kept.client.update("m", {"other": weights(2)["other"]})
    kept.client.allow("m", os.getpid())
    ask = Lease._ask
    published: list[int] = []

    def asking(self: Lease, message: protocol.Message) -> None:
        if isinstance(message, protocol.Fetch) and not published:
            published.append(kept.client.update("m", {"other": weights(3)["other"]}))
        ask(self, message)

    monkeypatch.setattr(Lease, "_ask", asking)
    with weightd.attach("m", runtime_dir=kept.runtime_dir) as here:
        wait_until(lambda: here.version == 3)
    assert published == [3]


def test_a_worker_without_descriptors_for_a_while_comes_back_all_the_same(kept: Kept) -> None:
    with kept.attach_here() as here:
        before = kept.pid
        os.kill(kept.process.pid, signal.SIGSTOP)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: not here.is_connected)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        tries = sockets_tried(here)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            wait_until(lambda: len(tries) > 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.kill(kept.process.pid, signal.SIGCONT)
        wait_until(lambda: here.is_connected)


def sockets_tried(here: weightd.Attachment) -> list[bool]:
    """Grows with each try of the watcher that failed."""
    tries: list[bool] = []
    connected = here.connected

    def counting(is_so: bool, why: str = "") -> None:
        tries.append(is_so)
        connected(is_so, why)

    here.connected = counting  # type: ignore[method-assign]
    return tries


def test_what_a_failed_switch_left_is_not_taken_for_the_next_incarnations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the number of a version there, and is not that version."""
    folder = RuntimeFolder(tmp_path / "run")
    with closing(Kept(Settings(), folder, tmp_path / "one")) as first:
        first.client.load("m", weights(0))
        here = first.attach_here("m")
    with here, closing(Kept(Settings(), folder, tmp_path / "two")) as second:
        switch = Attachment.switch

        def fail(self: Attachment, mapped: MappedVersion) -> float:
            raise EngineMismatchError("it has another onnxruntime")

        monkeypatch.setattr(Attachment, "switch", fail)
        second.client.load("m", weights(1))
        second.client.allow("m", os.getpid())
        wait_until(lambda: "another onnxruntime" in here.lag)
        monkeypatch.setattr(Attachment, "switch", switch)
        second.kill()
        wait_until(lambda: here.weights["other"][0] == 1)
