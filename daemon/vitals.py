"""Tells the service manager how the daemon is: ready, a line of status, and that the loop turns."""

from collections.abc import Callable

from weightd.daemon.loop import Loop
from weightd.ipc.manager import Manager

_STATUS_S = 1.0
_BEATS = 3  # in the time after which the manager would take us for hung


class Vitals:
    """line: what `systemctl status` is to show; asked for once a second at most. when_alone: is
    called once, when there is no manager any more.

    The heartbeat comes out of the loop that serves everybody, through its timers: if it hangs,
    nothing is sent, and the manager kills and restarts the daemon.
    """

    def __init__(
        self,
        loop: Loop,
        manager: Manager,
        watchdog_s: float | None,
        line: Callable[[], str],
        when_alone: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._manager = manager
        self._line = line
        self._when_alone = when_alone
        self._is_alone = False
        self._told = ""
        self._every_s = min(_STATUS_S, (watchdog_s or _STATUS_S) / _BEATS)
        self._has_watchdog = watchdog_s is not None

    def ready(self) -> None:
        """Serving begins, or goes on after the settings were read again."""
        self._told = self._line()
        self._manager.tell("READY=1", f"STATUS={self._told}")

    def begin(self) -> None:
        self.ready()
        self._loop.call_later(self._every_s, self._beat)

    def stopping(self) -> None:
        self._manager.tell("STOPPING=1", "STATUS=stopping")

    def _beat(self) -> None:
        lines = ["WATCHDOG=1"] if self._has_watchdog else []
        line = self._line()
        if line != self._told:
            self._told = line
            lines.append(f"STATUS={line}")
        if lines and not self._manager.tell(*lines) and not self._is_alone:
            self._is_alone = True
            self._when_alone()
        self._loop.call_later(self._every_s, self._beat)
