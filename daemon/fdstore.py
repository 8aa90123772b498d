"""The fd store: descriptors that outlive this process, in systemd's hands or a keeper's.

A store takes what it is sent in silence, and drops in silence what is too much. So there is room
before anything is parked, and settle() tells what is really there.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence

from weightd.daemon.inventory import Inventory
from weightd.daemon.loop import Loop, Timer
from weightd.errors import LimitError, StoreError
from weightd.ipc.manager import Given, Manager

log = logging.getLogger("weightd.store")

_BARRIER_S = 5.0
_TEXT_NBYTES = 4096

WhenSettled = Callable[[StoreError | None], object]


class FdStore:
    """Knows the names of what is stored. Descriptors that are parked stay the caller's.

    kind: 'systemd', 'keeper', or '' where there is none: then nothing outlives this process, and
    everything here does nothing. fault: why the last thing that was sent did not arrive, or ''.
    holder: the kind, or '' when that has ended.
    """

    def __init__(self, loop: Loop, given: Given, manager: Manager) -> None:
        self._loop = loop
        self._manager = manager
        self._room = given.room
        self.kind = "" if not given.room else "keeper" if given.is_keeper else "systemd"
        self.holder = self.kind
        self.fault = ""
        self._names = {name for name, _ in given.stored}
        self._inventory = Inventory(loop, given.unit) if self.kind == "systemd" else None

    def check_room(self, count: int) -> None:
        """LimitError unless that many more fit."""
        if self.kind and len(self._names) + count > self._room:
            raise LimitError(
                f"the fd store holds {len(self._names)} of at most {self._room} descriptors, and "
                f"{count} more are needed: keep fewer versions, unload a model, or raise "
                "FileDescriptorStoreMax= in the unit (weightd keeper has a limit of its own)"
            )

    def park(self, fds: Mapping[str, int]) -> None:
        """Send descriptors, each under a name of its own; those that are there already stay as they
        are. LimitError when there is no room: then nothing was sent. StoreError when it cannot be
        sent: then nothing of it stays."""
        if not self.kind:
            return
        new = {name: fd for name, fd in fds.items() if name not in self._names}
        self.check_room(len(new))
        sent: list[str] = []
        try:
            for name, fd in new.items():
                self._manager.store(name, fd)
                self._names.add(name)
                sent.append(name)
        except StoreError as error:
            self.fault = str(error)
            self.drop(sent)
            raise

    def settle(self, names: Sequence[str], when_settled: WhenSettled) -> None:
        """Call back once, with None when all that was sent has arrived and these names are there.
        At once where there is no store."""
        if not self.kind:
            when_settled(None)
            return

        def told(error: StoreError | None) -> None:
            self.fault = str(error) if error is not None else ""
            when_settled(error)

        try:
            _Barrier(self._loop, self._manager.barrier(), self._after(names, told))
        except (StoreError, OSError) as error:
            told(StoreError(str(error)))

    def drop(self, names: Sequence[str]) -> None:
        """Have these given up. One that could not be told of still takes its room."""
        for name in self._names.intersection(names):
            try:
                self._manager.remove(name)
            except StoreError as error:
                log.warning("%s stays in the fd store: %s", name, error)
            else:
                self._names.discard(name)

    def lose(self) -> None:
        """What holds the descriptors has ended. Nothing new is taken, nothing is forgotten."""
        self.holder, self.fault = "", f"the {self.kind or 'service manager'} has ended"
        if self.kind:
            log.error(
                "%s: what is held ends with this daemon, and nothing new can be published. Start "
                "another: `weightd shutdown`, then `weightd keeper`; workers predict on",
                self.fault,
            )

    def close(self) -> None:
        if self._inventory is not None:
            self._inventory.close()

    def _after(self, names: Sequence[str], when_settled: WhenSettled) -> WhenSettled:
        def after(error: StoreError | None) -> None:
            if error is None and self._inventory is not None:
                self._inventory.check(names, when_settled)
            else:
                when_settled(error)

        return after


class _Barrier:
    """Waits until the manager has done what it was sent."""

    def __init__(self, loop: Loop, fd: int, when_settled: WhenSettled) -> None:
        self._loop = loop
        self._fd = fd
        self._when_settled = when_settled
        self._text = b""
        self._timer: Timer = loop.call_later(_BARRIER_S, self._too_late)
        loop.add(fd, self._read)

    def _read(self) -> None:
        raw = os.read(self._fd, _TEXT_NBYTES)
        self._text += raw
        if not raw:
            text = self._text.decode("utf-8", "replace")
            self._end(StoreError(f"the fd store refused: {text}") if text else None)

    def _too_late(self) -> None:
        self._end(StoreError(f"the service manager did not answer in {_BARRIER_S:g} s"))

    def _end(self, error: StoreError | None) -> None:
        self._timer.cancel()
        self._loop.remove(self._fd)
        os.close(self._fd)
        self._when_settled(error)
