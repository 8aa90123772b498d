"""A command on a real terminal: a pty of a given size, and what it wrote there so far."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.command_line import ENVIRON
from tests.helpers import kill_and_reap

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HOME = "\x1b[H"  # a screen begins


class Terminal:
    """Owns both ends of the pty; the command's process is its user's."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int, theirs: int) -> None:
        self.process = process
        self._ours = ours
        self._theirs = theirs
        self._written = ""

    def screen(self) -> str:
        """What was written since the screen was last begun anew, without colours."""
        while select.select([self._ours], [], [], 0)[0]:
            self._written += os.read(self._ours, 65536).decode(errors="replace")
        return _ESCAPES.sub("", self._written.rpartition(_HOME)[2])

    def shows(self, *texts: str) -> bool:
        return all(text in self.screen() for text in texts)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def is_cooked(self) -> bool:
        """Whether lines are edited and shown by the terminal, as a shell wants it."""
        flags = int(termios.tcgetattr(self._theirs)[3])
        return bool(flags & termios.ICANON and flags & termios.ECHO)

    def ended(self) -> bool:
        self.screen()  # it may wait for somebody to read
        return self.process.poll() is not None


@contextmanager
def on_terminal(argv: Sequence[str], *, rows: int, columns: int = 100) -> Iterator[Terminal]:
    """Run a command there; it is killed at the end."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environ = {**ENVIRON, "TERM": "xterm-256color"}
        environ = {k: v for k, v in environ.items() if k not in ("COLUMNS", "LINES")}
        process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
        )
        try:
            yield Terminal(process, ours, theirs)
        finally:
            kill_and_reap(process)
    finally:
        os.close(ours)
        os.close(theirs)
