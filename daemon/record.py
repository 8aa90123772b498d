"""Writes the daemon's state down whenever it has changed, before anybody hears of the change."""

from collections.abc import Callable

from weightd.daemon.state import State, encode
from weightd.ipc.slots import Slots

STATE = "state"  # its name in the fd store


class Record:
    """Owns the slots, if there are any: without an fd store nobody would read them."""

    def __init__(self, slots: Slots | None, capture: Callable[[], State]) -> None:
        self._slots = slots
        self._capture = capture
        self._revision = 0

    def commit(self, revision: int) -> None:
        """Have the successor find things as they are now. revision: of the catalog.

        A failure (no memory) ends the daemon, which has told nobody yet: its successor goes on from
        what was written before.
        """
        if self._slots is not None and revision != self._revision:
            self._slots.commit(encode(self._capture()))
        self._revision = revision

    def close(self) -> None:
        if self._slots is not None:
            self._slots.close()
