"""What systemd's fd store really holds, asked of systemd itself: it drops what is too much, and
tells nobody."""

import json
import logging
import os
import subprocess
from collections.abc import Callable, Sequence

from weightd.daemon.loop import Loop, Timer
from weightd.errors import StoreError

log = logging.getLogger("weightd.store")

_ASK_S = 5.0
_READ_NBYTES = 65_536
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
_CALL = ("org.freedesktop.systemd1.Manager", "DumpUnitFileDescriptorStore", "s")  # systemd 254


class Inventory:
    """Asks for one unit. Where it cannot be asked (no bus, an older systemd) that is logged once,
    and what was sent is taken for stored."""

    def __init__(self, loop: Loop, unit: str) -> None:
        self._loop = loop
        self._unit = unit
        self._asking: set[_Question] = set()
        self._has_warned = False

    def check(
        self, names: Sequence[str], when_known: Callable[[StoreError | None], object]
    ) -> None:
        """Call back once, with the error that says which of the names are not there."""

        def answered(listing: set[str] | str) -> None:
            self._asking.discard(question)
            if isinstance(listing, str):
                self._warn(listing)
                when_known(None)
                return
            missing = [name for name in names if name not in listing]
            text = f"systemd's fd store of {self._unit} lacks {', '.join(missing)}"
            when_known(StoreError(text) if missing else None)

        if not self._unit:
            self._warn("$WEIGHTD_UNIT is not set")
            when_known(None)
            return
        argv = ["busctl", "--json=short", "call", *_MANAGER, *_CALL, self._unit]
        question = _Question(self._loop, argv, answered)
        self._asking.add(question)
        question.begin()

    def close(self) -> None:
        for question in list(self._asking):
            question.give_up("the daemon ends")

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            log.warning("systemd cannot be asked what its fd store holds: %s", why)
            self._has_warned = True


class _Question:
    """One run of busctl. Answers with the names that are stored, or with a text: why it cannot."""

    def __init__(
        self, loop: Loop, argv: Sequence[str], answered: Callable[[set[str] | str], object]
    ) -> None:
        self._loop = loop
        self._argv = argv
        self._answered = answered
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._timer: Timer | None = None
        self._waited_for: int | None = None  # the process, by pidfd

    def begin(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            self._answered(f"busctl: {error.strerror}")
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._loop.add(self._process.stdout.fileno(), self._read)
        self._timer = self._loop.call_later(_ASK_S, lambda: self.give_up("busctl did not end"))

    def give_up(self, why: str) -> None:
        if self._process is not None:
            self._process.kill()
            self._end(why)

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        raw = os.read(self._process.stdout.fileno(), _READ_NBYTES)
        self._said += raw
        if not raw:  # it has said everything, and ends soon
            self._loop.remove(self._process.stdout.fileno())
            self._waited_for = os.pidfd_open(self._process.pid)
            self._loop.add(self._waited_for, lambda: self._end(""))

    def _end(self, why: str) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        if self._timer is not None:
            self._timer.cancel()
        if self._waited_for is None:
            self._loop.remove(process.stdout.fileno())
        else:
            self._loop.remove(self._waited_for)
            os.close(self._waited_for)
        with process:
            pass
        if not why and process.returncode:
            why = f"busctl ended with status {process.returncode}"
        self._answered(why or _names_in(self._said))


def _names_in(said: bytes) -> set[str] | str:
    """The names in the answer, which is a list of (name, mode, device, inode, …)."""
    try:
        return {str(entry[0]) for entry in json.loads(said)["data"][0]}
    except (ValueError, LookupError, TypeError) as error:
        return f"busctl's answer was not understood: {error}"
