"""What a service manager gives a daemon: it is the daemon's alone, and has an end."""

import os

import pytest

from weightd.daemon.fdstore import FdStore
from weightd.daemon.loop import Loop
from weightd.errors import LimitError, StoreError
from weightd.ipc.manager import Given, Manager


def test_what_the_manager_gives_is_kept_from_children() -> None:
    given = {
        "NOTIFY_SOCKET": "/run/notify",
        "FDSTORE": "8",
        "WATCHDOG_USEC": "1000000",
        "LISTEN_FDS": "0",
        "LISTEN_FDNAMES": "",
        "LISTEN_PID": str(os.getpid()),
        "WEIGHTD_STORE": "weightd-keeper",
    }
    environ = given | {"PATH": "/bin"}
    assert Given.take(environ).notify == "/run/notify"
    assert environ == {"PATH": "/bin"}


def test_what_the_store_has_no_room_for_is_refused_before_it_is_made() -> None:
    loop, manager = Loop(), Manager("")
    try:
        stored = tuple((f"segment.{n}", -1) for n in range(6))
        store = FdStore(loop, Given(notify="/run/notify", stored=stored, room=8), manager)
        store.check_room(2)
        with pytest.raises(LimitError, match="6 of at most 8 descriptors, and 3 more"):
            store.check_room(3)
        with pytest.raises(StoreError):  # nobody takes it, and so it is not taken for stored
            store.park({"segment.7": 0})
        store.check_room(2)
    finally:
        manager.close()
        loop.close()


def test_what_nobody_could_be_told_to_give_up_still_takes_its_room() -> None:
    loop, manager = Loop(), Manager("")
    try:
        stored = (("segment.1", -1), ("segment.2", -1))
        store = FdStore(loop, Given(notify="/run/notify", stored=stored, room=3), manager)
        store.drop(["segment.1"])
        with pytest.raises(LimitError, match="2 of at most 3 descriptors"):
            store.check_room(2)
    finally:
        manager.close()
        loop.close()
