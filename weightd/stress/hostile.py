"""Slow and hostile peers on the attach and admin sockets. None of them may harm anybody."""

import array
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from weightd.ipc import protocol
from weightd.ipc.runtime import RuntimeFolder
from weightd.stress.findings import Findings
from weightd.stress.zmtp import GREETING, message, ready

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S = 2.0
_SILENT = 300
_FLOOD = 2000
_STAY_S = 0.2


class Hostile:
    """Attacks by name, of this process. Each ends by itself, and closes what it opened."""

    def __init__(self, runtime: RuntimeFolder, findings: Findings) -> None:
        self._runtime = runtime
        self._findings = findings
        self._attacks: tuple[Callable[[Random], None], ...] = (
            self.be_silent,
            self.say_half,
            self.pass_descriptors,
            self.never_read,
            self.flood,
            self.speak_half_zmtp,
        )

    def attack(self, random: Random) -> None:
        attack = random.choice(self._attacks)
        self._findings.did(f"hostile: {attack.__name__.replace('_', ' ')}")
        try:
            attack(random)
        except OSError:  # hung up, or refused: as it should be
            return

    def be_silent(self, _: Random) -> None:
        """Connect and say nothing, more than one user may."""
        with ExitStack() as stack:
            for _number in range(_SILENT):
                stack.enter_context(self._connected(self._runtime.attach))
            time.sleep(_STAY_S)

    def say_half(self, random: Random) -> None:
        """A message cut short, on both sockets of messages."""
        raw = protocol.encode(protocol.Attach("lenet"))
        for path in (self._runtime.attach, self._runtime.admin):
            with self._connected(path) as sock:
                sock.send(raw[: random.randint(1, len(raw) - 1)])
                sock.recv(65536)

    def pass_descriptors(self, random: Random) -> None:
        """Descriptors that nobody asked for, one of which lingers when it is closed."""
        listener = socket.create_server(("127.0.0.1", 0))
        with listener, socket.create_connection(listener.getsockname()) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\5\0\0\0")
            fds = array.array("i", [slow.fileno()] * random.randint(1, 8))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            for path in (self._runtime.admin, self._runtime.attach):
                with self._connected(path) as sock:
                    sock.sendmsg([protocol.encode(protocol.CurrentPid())], rights)

    def never_read(self, _: Random) -> None:
        """Ask, and leave every answer where it is."""
        with self._connected(self._runtime.attach) as sock:
            sock.setblocking(False)
            for _number in range(_FLOOD):
                sock.send(protocol.encode(protocol.CurrentPid()))

    def flood(self, _: Random) -> None:
        """Ask as fast as can be, and read."""
        with self._connected(self._runtime.attach) as sock:
            for _number in range(_FLOOD):
                sock.send(protocol.encode(protocol.CurrentPid()))
                sock.recv(65536)

    def speak_half_zmtp(self, random: Random) -> None:
        """A handshake that ends somewhere, on the control and events sockets."""
        whole = GREETING + ready(b"DEALER") + message(b"1", b"x" * 100)
        for path in (self._runtime.control, self._runtime.events):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(_WAIT_S)
                sock.connect(os.fspath(path))
                sock.sendall(whole[: random.randint(1, len(whole))])

    @staticmethod
    def _connected(path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(_WAIT_S)
        try:
            sock.connect(os.fspath(path))
        except OSError:
            sock.close()
            raise
        return sock
