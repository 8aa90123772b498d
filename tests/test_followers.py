"""Who follows events: ipc/channel.py, both ends in one process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers import wait_until
from weightd.ipc import channel
from weightd.ipc.channel import ControlClient, ControlServer

MORE_THAN_ALL_QUEUES = 5_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path / "control", tmp_path / "events")
    yield server
    server.close()


@pytest.fixture
def client(tmp_path: Path, server: ControlServer) -> Iterator[ControlClient]:
    with ControlClient(tmp_path / "control", tmp_path / "events") as client:
        yield client


class Follower:
    """Listens in a thread, while it is let."""

    def __init__(self, client: ControlClient, topic: str) -> None:
        self.heard: list[bytes | None] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self._thread = threading.Thread(target=self._listen, args=(client, topic))
        self._thread.start()

    def _listen(self, client: ControlClient, topic: str) -> None:
        for event in client.events(topic):
            self.heard.append(event)
            if event == b"last":
                return
            self.may_read.wait()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def told(server: ControlServer, topic: str, raw: bytes, has_come: Callable[[], object]) -> None:
    """Until it has come: a follower takes a moment to be known, and one who is slow misses some."""

    def tell() -> object:
        server.receive()
        server.publish(topic, raw)
        return has_come()

    wait_until(tell)


def test_a_follower_hears_of_what_it_asked_for_and_of_nothing_else(
    server: ControlServer, client: ControlClient
) -> None:
    follower = Follower(client, "lenet")
    told(server, "lenet", b"here", lambda: b"here" in follower.heard)
    server.publish("other", b"not for it")
    told(server, "lenet", b"last", lambda: b"last" in follower.heard)
    follower.join()
    assert follower.heard[0] is None  # a connection begins: what was before is not known
    assert set(follower.heard[1:]) == {b"here", b"last"}


def test_one_who_does_not_read_hears_of_the_gap_once_he_reads_again(
    server: ControlServer, client: ControlClient
) -> None:
    follower = Follower(client, "")
    told(server, "m", b"here", lambda: b"here" in follower.heard)
    follower.may_read.clear()
    for _ in range(MORE_THAN_ALL_QUEUES):
        server.publish("m", b"many")
    follower.may_read.set()
    told(server, "m", b"last", lambda: b"last" in follower.heard)
    follower.join()
    assert None in follower.heard[1:]
    assert follower.heard.count(b"many") < MORE_THAN_ALL_QUEUES


def test_followers_that_are_gone_make_room_for_the_next(
    server: ControlServer, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_MOST_FOLLOWERS", 3)
    for _ in range(4):
        with ExitStack() as gone:
            for _ in range(3):
                events = client.events("m")
                gone.callback(events.close)  # type: ignore[attr-defined]  # a generator
                assert next(events) is None
            server.woken()
            while server.is_due:
                server.receive()
    follower = Follower(client, "m")
    told(server, "m", b"last", lambda: b"last" in follower.heard)
    follower.join()
