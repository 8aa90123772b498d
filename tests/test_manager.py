"""manager.py, fdstore.py, inventory.py, vitals.py: what passes between a daemon and its service
manager, which the test plays."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import EARLY, FINAL
from tests.helpers import wait_until
from tests.managed import Manager, Place, managed_place
from weightd.daemon import fdstore, inventory
from weightd.daemon.fdstore import FdStore
from weightd.daemon.inventory import Inventory
from weightd.daemon.loop import Loop
from weightd.errors import LimitError, StoreError
from weightd.ipc import manager as ours
from weightd.ipc.manager import Given

# --- what the manager gives --------------------------------------------------------------

TAKE = """
import json, os, stat
from pathlib import Path
from weightd.ipc.manager import Given
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"].replace("SELF", str(os.getpid()))
os.environ["WATCHDOG_PID"] = os.environ.get("WATCHDOG_PID", "").replace("SELF", str(os.getpid()))
given = Given.take(os.environ)
left = [name for name in os.environ if name.startswith(("LISTEN", "NOTIFY", "WATCHDOG", "FDST"))]
passed_on = [fd for name, fd in given.stored if os.get_inheritable(fd)]
sockets = list(given.sockets)
print(json.dumps([sockets, given.stored, given.room, given.watchdog_s, left, passed_on]))
"""


def taken(path: Path, **environ: str) -> Any:
    """What a process takes that gets a listening Unix socket, /dev/null and an Internet socket as
    numbers 3 to 5."""
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_INET) as internet,
        open(os.devnull, "rb") as null,
    ):
        listening.bind(str(path))
        listening.listen()
        fds = [os.dup(s.fileno()) for s in (listening, null, internet)]
        high = [fd + 100 for fd in fds]
        for fd, number in zip(fds, high, strict=True):
            os.dup2(fd, number)
            os.close(fd)
        moves = " ".join(f"{number}<&{fd}" for number, fd in enumerate(high, 3))
        try:
            done = subprocess.run(
                ["bash", "-c", f'exec "$@" {moves}', "bash", sys.executable, "-c", TAKE],
                env={**os.environ, **environ},
                pass_fds=high,
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            for fd in high:
                os.close(fd)
    return json.loads(done.stdout)


def test_a_process_takes_what_it_is_given_and_passes_nothing_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    environ = {"LISTEN_FDNAMES": "a:b", "FDSTORE": "7", "NOTIFY_SOCKET": "/x"}
    watched = {"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "SELF"}
    sockets, stored, room, watchdog_s, left, passed_on = taken(
        path, LISTEN_PID="SELF", LISTEN_FDS="3", **environ, **watched
    )
    assert sockets[0] == str(path)  # by its path, whatever its name is
    assert len(sockets) == 2  # the other one is not for us, and is no reason to fail
    assert stored == [["b", 4]]
    assert (room, watchdog_s, left, passed_on) == (7, 1.5, [], [])


def test_what_another_process_was_given_is_not_taken(tmp_path: Path) -> None:
    sockets, stored, room, watchdog_s, left, _ = taken(
        tmp_path / "s",
        LISTEN_PID="1",
        LISTEN_FDS="3",
        WATCHDOG_USEC="1500000",
        WATCHDOG_PID="1",
        FDSTORE="7",
    )
    assert (sockets, stored, room, watchdog_s, left) == ([], [], 0, None, [])


def test_nothing_is_taken_where_nothing_is_given() -> None:
    assert Given.take({}) == Given()
    assert Given.take({"LISTEN_FDS": "2"}) == Given()  # for whom is not said
    assert Given.take({"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())}) == Given()


def test_a_manager_with_an_abstract_address_is_told() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"\0weightd-test-{os.getpid()}")
        told = ours.Manager(f"@weightd-test-{os.getpid()}")
        told.tell("STATUS=two\nlines", "READY=1")
        assert notify.recv(100) == b"STATUS=two lines\nREADY=1"
        told.close()
        told.close()


def test_a_manager_that_is_gone_is_an_error_only_for_what_must_be_kept(tmp_path: Path) -> None:
    told = ours.Manager(str(tmp_path / "nobody"))
    told.tell("READY=1")
    with pytest.raises(StoreError, match="takes nothing"):
        told.store("one", 0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError):
        told.barrier()
    assert len(os.listdir("/proc/self/fd")) == before
    told.close()


# --- the fd store ------------------------------------------------------------------------


class Waiting:
    """Turns a loop until somebody called back."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.said: list[StoreError | None] = []

    def back(self, error: StoreError | None) -> None:
        self.said.append(error)
        self.loop.stop()

    def answer(self) -> StoreError | None:
        self.loop.run()
        self.loop._stopping = False
        [error] = self.said
        self.said.clear()
        return error


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    made = Waiting()
    yield made
    made.loop.close()


def parked(place: Place, waiting: Waiting, kind: str = "weightd-keeper") -> FdStore:
    given = Given(str(place.manager.path), room=place.manager.room, is_keeper=bool(kind))
    return FdStore(waiting.loop, given, ours.Manager(given.notify))


def test_what_does_not_fit_is_not_even_sent(waiting: Waiting) -> None:
    with managed_place(room=2) as place:
        store = parked(place, waiting)
        store.park({"one": 0})
        with pytest.raises(LimitError, match="holds 1 of at most 2 descriptors, and 2 more"):
            store.park({"two": 0, "three": 0})
        store.park({"one": 0, "two": 0})  # one of them is there already
        store.settle(["one", "two"], waiting.back)
        assert waiting.answer() is None
        assert [told["FDNAME"] for told in place.manager.told[:-1]] == ["one", "two"]
        assert list(place.manager.stored) == ["one", "two"]
        store.drop(["one", "never"])
        store.park({"three": 0})
        store.settle([], waiting.back)
        assert waiting.answer() is None
        assert list(place.manager.stored) == ["two", "three"]
        store._manager.close()


def test_what_a_keeper_refused_and_a_manager_that_does_not_answer_are_errors(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with managed_place(room=3) as place:
        store = parked(place, waiting)
        place.manager.room = 0  # less than it said
        store.park({"one": 0})
        store.settle(["one"], waiting.back)
        assert str(waiting.answer()) == "the fd store refused: one"
        place.manager.is_silent = True
        monkeypatch.setattr(fdstore, "_BARRIER_S", 0.05)
        store.settle([], waiting.back)
        assert str(waiting.answer()) == "the service manager did not answer in 0.05 s"
        store._manager.close()


def test_without_a_manager_everything_is_settled_at_once(waiting: Waiting) -> None:
    store = FdStore(waiting.loop, Given(), ours.Manager(""))
    store.check_room(10_000)
    store.park({"one": 0})
    store.settle(["one"], waiting.back)
    store.drop(["one"])
    assert (waiting.said, store.kind) == ([None], "")


# --- what systemd really stores ----------------------------------------------------------

LISTING = '{"type":"a(suuutuusu)","data":[[["one",1,2,3],["two",1,2,3]]]}'


@pytest.fixture
def busctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have this shell script be the bus."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(script: str) -> None:
        program = tmp_path / "busctl"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


def checked(waiting: Waiting, asked: Inventory, *names: str) -> StoreError | None:
    asked.check(names, waiting.back)
    return waiting.answer()


def test_systemd_is_asked_what_it_stores(
    waiting: Waiting, busctl: Callable[[str], None], tmp_path: Path
) -> None:
    busctl(f"echo \"$@\" > {tmp_path}/asked; echo '{LISTING}'")
    asked = Inventory(waiting.loop, "weightd.service")
    assert checked(waiting, asked, "one", "two") is None
    error = checked(waiting, asked, "one", "three", "four")
    assert str(error) == "systemd's fd store of weightd.service lacks three, four"
    words = (tmp_path / "asked").read_text().split()
    assert words[-3:] == ["DumpUnitFileDescriptorStore", "s", "weightd.service"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo nonsense", "busctl's answer was not understood"),
        ("echo '{}'", "busctl's answer was not understood"),
        ("echo '{\"data\":[7]}'", "busctl's answer was not understood"),
        ("exit 3", "busctl ended with status 3"),
        ("exec sleep 60", "busctl did not end"),
        ("exec >&-; exec sleep 9", "busctl did not end"),
    ],
)
def test_a_bus_that_does_not_answer_is_warned_of_once_and_hinders_nothing(
    waiting: Waiting,
    busctl: Callable[[str], None],
    script: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(inventory, "_ASK_S", 0.3)
    busctl(script)
    asked = Inventory(waiting.loop, "weightd.service")
    assert checked(waiting, asked, "one") is None
    assert checked(waiting, asked, "one") is None
    [warning] = caplog.messages
    assert reason in warning


@pytest.mark.parametrize(("unit", "reason"), [("", "WEIGHTD_UNIT"), ("x", "busctl: No such file")])
def test_where_there_is_no_bus_that_is_said_once(
    waiting: Waiting, unit: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        asked = Inventory(waiting.loop, unit)
        asked.check(["one"], waiting.back)
        asked.check(["one"], waiting.back)
    assert waiting.said == [None, None]
    [warning] = caplog.messages
    assert reason in warning


# --- a real daemon -----------------------------------------------------------------------


def kinds(manager: Manager) -> list[str]:
    """What was told since the start, one word for each message."""
    words = ("FDSTORE", "FDSTOREREMOVE", "BARRIER", "READY", "RELOADING", "STOPPING")
    found = []
    for told in manager.told:
        name = told.get("FDNAME", "").partition(".")[0]
        found += [f"{word} {name}".strip() for word in words if word in told]
    return found


def test_a_daemon_tells_its_manager_all_its_life() -> None:
    with managed_place() as place:
        manager = place.manager
        with place.daemon() as daemon:
            wait_until(lambda: manager.has_heard(READY="1"))
            assert kinds(manager) == ["FDSTORE state", "READY"]
            wait_until(lambda: manager.beats >= 2)
            del manager.told[:]
            heard_before: list[list[str]] = []
            daemon.client.load(
                "lenet", EARLY, on_progress=lambda _: heard_before.append(kinds(manager))
            )
            stored = ["FDSTORE segment", "FDSTORE file", "FDSTORE folder", "BARRIER"]
            assert kinds(manager) == stored
            assert stored not in heard_before
            wait_until(lambda: any("1 model" in t.get("STATUS", "") for t in manager.told))
            del manager.told[:]
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: manager.has_heard(READY="1"))
            assert kinds(manager) == ["RELOADING", "READY"]
            assert int(manager.told[0]["MONOTONIC_USEC"]) > 0
            before = daemon.client.status()
            assert daemon.stop() == 0
            assert kinds(manager)[2:] == ["STOPPING"]
        held = set(manager.stored)
        assert len(held) == 4
        with place.daemon() as daemon:
            after = daemon.client.status()
            assert (after.models, after.incarnation) == (before.models, before.incarnation)
            assert set(manager.stored) == held
            daemon.client.unload("lenet")
            wait_until(lambda: list(manager.stored) == ["state"])


def test_a_version_that_would_not_outlive_the_daemon_is_not_published(tmp_path: Path) -> None:
    """By a store that says no, by one that is full, and by systemd, which says nothing."""
    with managed_place(room=13) as place, place.daemon() as daemon:
        daemon.client.load("lenet", EARLY)
        before = daemon.client.status().models
        place.manager.room = 4
        with pytest.raises(StoreError, match="the fd store refused: segment"):
            daemon.client.publish("lenet", FINAL)
        assert daemon.client.status().models == before
        wait_until(lambda: len(place.manager.stored) == 4)
        place.manager.room = 13
        assert daemon.client.publish("lenet", FINAL) == 2
        for name in ("a", "b"):
            daemon.client.load(name, EARLY)
        with pytest.raises(LimitError, match="at most 13 descriptors"):
            daemon.client.publish("lenet", EARLY)
        assert daemon.versions() == [(1, "HELD"), (2, "LIVE")]


def test_what_systemd_dropped_in_silence_is_not_published(
    busctl: Callable[[str], None], tmp_path: Path
) -> None:
    listing = tmp_path / "listing"
    listing.write_text('{"data":[[]]}')
    busctl(f"cat {listing}")
    env = {"PATH": os.environ["PATH"], "WEIGHTD_UNIT": "weightd.service"}
    with managed_place(keeper=False) as place, place.daemon(env=env) as daemon:
        with pytest.raises(StoreError, match="lacks segment"):
            daemon.client.load("lenet", EARLY)
        assert daemon.client.status().models == {}
        wait_until(lambda: list(place.manager.stored) == ["state"])
