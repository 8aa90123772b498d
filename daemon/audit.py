"""The record of decisions: one line for each, of who asked for what, and what came of it.

    what=attach outcome=refused pid=47 uid=1000 model=m reason="NotAllowedError: nothing lets it in"

It goes to the logger `weightd.audit`, at INFO whatever the daemon's log level is. A flood is told
once: of the same user, request and outcome there are at most LINES in a window, then one line says
how many more there were. Who floods with many users shares one such count.
"""

import logging
import re

import msgspec

from weightd.daemon import logs
from weightd.daemon.loop import Loop

log = logging.getLogger(logs.AUDIT)

LINES = 20  # of one kind in one window
WINDOW_S = 10.0
_KINDS = 1024  # that are counted one by one
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+*,-]+")
_MAX_VALUE = 400

Kind = tuple[int | None, str, str]  # uid (None: of many users), what, outcome


class _Count(msgspec.Struct):
    since_s: float
    lines: int = 0
    more: int = 0


class Tally:
    """Which decisions get a line of their own. Pure: the time comes as an argument."""

    def __init__(self) -> None:
        self._counts: dict[Kind, _Count] = {}

    def is_told(self, uid: int, what: str, outcome: str, now_s: float) -> bool:
        """Whether this one gets a line; if not it is counted."""
        kind: Kind = (uid, what, outcome)
        if kind not in self._counts and len(self._counts) >= _KINDS:
            kind = (None, what, outcome)
        count = self._counts.setdefault(kind, _Count(now_s))
        if count.lines < LINES:
            count.lines += 1
            return True
        count.more += 1
        return False

    def end_windows(self, now_s: float) -> list[tuple[Kind, int]]:
        """Begin anew for every kind whose window is over; returns how many more of each were not
        told."""
        over = [k for k, c in self._counts.items() if now_s - c.since_s >= WINDOW_S]
        ended = [(kind, self._counts.pop(kind).more) for kind in over]
        return [(kind, more) for kind, more in ended if more]

    @property
    def is_empty(self) -> bool:
        return not self._counts


class Audit:
    """Writes the record. Uses the loop for its time and to end windows, while there are any."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._tally = Tally()
        self._is_waiting = False

    def note(
        self,
        what: str,
        outcome: str,
        *,
        pid: int,
        uid: int,
        model: str = "",
        reason: str = "",
    ) -> None:
        """One decision."""
        if self._tally.is_told(uid, what, outcome, self._loop.now_s()):
            _write(what=what, outcome=outcome, pid=pid, uid=uid, model=model, reason=reason)
        if not self._is_waiting:
            self._is_waiting = True
            self._loop.call_later(WINDOW_S, self._end_windows)

    def refused(self, what: str, error: Exception, *, pid: int, uid: int, model: str = "") -> None:
        """A decision against somebody; the reason is the error's note, which does not travel, or
        else its message."""
        notes = getattr(error, "__notes__", ())
        reason = f"{type(error).__name__}: {'; '.join(notes) or error}"
        self.note(what, "refused", pid=pid, uid=uid, model=model, reason=reason)

    def turned_away(self, error: Exception, pid: int, uid: int) -> None:
        """A connection was not taken."""
        self.refused("connect", error, pid=pid, uid=uid)

    def close(self) -> None:
        """Tell what was counted so far."""
        self._tell(self._tally.end_windows(float("inf")))

    def _end_windows(self) -> None:
        self._tell(self._tally.end_windows(self._loop.now_s()))
        self._is_waiting = not self._tally.is_empty
        if self._is_waiting:
            self._loop.call_later(WINDOW_S, self._end_windows)

    def _tell(self, more: list[tuple[Kind, int]]) -> None:
        for (uid, what, outcome), count in more:
            who = "many" if uid is None else uid
            _write(what=what, outcome=outcome, uid=who, more=count, window_s=WINDOW_S)


def _write(**fields: object) -> None:
    cut = {name: str(value)[:_MAX_VALUE] for name, value in fields.items()}
    log.info("%s", line(**fields), extra=logs.fields(**cut))


def line(**fields: object) -> str:
    """key=value, empty ones left out; values with spaces or signs in quotes, on one line."""
    return " ".join(f"{key}={_value(str(value))}" for key, value in fields.items() if value != "")


def _value(text: str) -> str:
    text = one_line(text[:_MAX_VALUE])
    if _PLAIN.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def one_line(text: str) -> str:
    """Somebody else's words, for a log: no line breaks, and nothing that a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in text)
