"""`python -m weightd.stress.fuzzer RUNTIME_DIR SOCKET`: sends mutated frames to one socket.

SOCKET: control, events, admin, attach or keeper. In: {"frames": N, "seed": S}. Out: {"sent": N}
when that is done. That the daemon hangs up, or is away, is no news: it connects again. In:
{"rehearse_s": S, "seed": S}: the same work for so long, with nobody at the other end.
"""

import array
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from weightd.ipc.runtime import RuntimeFolder
from weightd.stress.mutation import ADMIN, ATTACH, CONTROL, KEEPER, mutated
from weightd.stress.zmtp import GREETING, message, ready

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S = 5.0
_AWAY_S = 0.05
_ANSWER_S = 0.02
_READY = ready(b"DEALER")
_NAMED = ready(b"DEALER", b"as others are called")
_LAST = b"the last one"  # a request's number, of at most 16 bytes
_MOST_NBYTES = 65536
_MESSAGES = 300  # on one connection of ZMTP
_PATIENCE_S = 60.0


class Fuzzer:
    """One socket's. send() sends one frame or a few, and returns how many."""

    def __init__(self, folder: RuntimeFolder, name: str) -> None:
        self._path: Path = getattr(folder, name)
        self._sock: socket.socket | None = None
        self._left = 0  # messages for this connection
        self.send: Callable[[Random], int] = {
            "control": lambda random: self._zmtp(random, has_answers=True),
            "events": lambda random: self._zmtp(random, has_answers=False),
            "admin": lambda random: self._packet(random, ADMIN, has_descriptors=True),
            "attach": lambda random: self._packet(random, ATTACH, has_descriptors=False),
            "keeper": self._datagram,
        }[name]

    def run(self, frames: int, seed: int) -> int:
        """Send so many; fewer when the daemon stays away."""
        random = Random(seed)
        sent = 0
        deadline_s = time.monotonic() + _PATIENCE_S
        while sent < frames and time.monotonic() < deadline_s:
            try:
                sent += self.send(random)
                deadline_s = time.monotonic() + _PATIENCE_S
            except (ConnectionRefusedError, FileNotFoundError):
                self._hang_up()
                time.sleep(_AWAY_S)
            except OSError:  # it hung up, or does not read: as it may
                self._hang_up()
        self._hang_up()
        return sent

    def rehearse(self, seconds: float, seed: int) -> int:
        """Make frames and send them to itself: what a fuzzer costs the machine, but no daemon."""
        random = Random(seed)
        sent = 0
        ends_s = time.monotonic() + seconds
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            while time.monotonic() < ends_s:
                ours.sendmsg([mutated(random, ATTACH)])
                theirs.recv(_MOST_NBYTES)
                sent += 1
        return sent

    def _packet(self, random: Random, seeds: tuple[bytes, ...], *, has_descriptors: bool) -> int:
        sock = self._sock or self._connect(socket.SOCK_SEQPACKET)
        rights = []
        if has_descriptors and random.random() < 0.3:
            fds = array.array("i", [0] * random.randint(1, 4))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        sock.sendmsg([mutated(random, seeds)], rights, socket.MSG_NOSIGNAL)
        if random.random() < 0.9 and not self._heard(sock):
            self._hang_up()
        return 1

    @staticmethod
    def _heard(sock: socket.socket) -> bool:
        """Whether it answered, and did not hang up. Not everything has an answer."""
        return bool(select.select([sock], [], [], _ANSWER_S)[0]) and bool(sock.recv(_MOST_NBYTES))

    def _zmtp(self, random: Random, *, has_answers: bool) -> int:
        """Mostly mutated messages in a sound connection, now and then a mutated connection."""
        if random.random() < 0.02:
            self._hang_up()
            self._connect(socket.SOCK_STREAM).sendall(
                mutated(random, (GREETING, GREETING + _READY, GREETING + _NAMED, _READY))
            )
            self._hang_up()
            return 1
        if self._sock is None or not self._left:
            self._hang_up()
            self._shake_hands()
            self._left = _MESSAGES
        assert self._sock is not None
        self._left -= 1
        parts = [mutated(random, CONTROL)[:_MOST_NBYTES]]
        if random.random() < 0.97:
            parts.insert(0, b"%x" % self._left)
        if not has_answers:
            parts = parts[-1:]
        if random.random() < 0.01:
            self._wait_until_read(has_answers=has_answers)
            self._sock.sendall(mutated(random, (message(*parts),)))
            self._hang_up()  # nobody knows where the next message would begin
            return 1
        self._sock.sendall(message(*parts))
        self._drain()
        if not self._left:
            self._wait_until_read(has_answers=has_answers)
        return 1

    def _shake_hands(self) -> None:
        """A message that is there before libzmq's own READY is sent would end the connection."""
        sock = self._connect(socket.SOCK_STREAM)
        sock.sendall(GREETING + _READY)
        heard = b""
        while b"READY" not in heard:
            heard += _some(sock)

    def _wait_until_read(self, *, has_answers: bool) -> None:
        """Ask something sound, and wait for its answer: all before it has been dealt with. Else the
        frames would wait in libzmq, and it would be its memory that is measured."""
        if self._sock is None or not has_answers:
            return
        self._sock.sendall(message(_LAST, CONTROL[0]))
        heard = b""
        while _LAST not in heard:
            heard = heard[-len(_LAST) :] + _some(self._sock)

    def _drain(self) -> None:
        """Read what was answered, without waiting: a peer that never reads is hostile.py's."""
        assert self._sock is not None
        while self._sock is not None and select.select([self._sock], [], [], 0)[0]:
            if not self._sock.recv(_MOST_NBYTES):
                self._hang_up()

    def _datagram(self, random: Random) -> int:
        sock = self._sock or self._connect(socket.SOCK_DGRAM)
        rights = []
        if random.random() < 0.3:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
        sock.sendmsg([mutated(random, KEEPER)], rights)
        return 1

    def _connect(self, kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.settimeout(_WAIT_S)
        try:
            sock.connect(os.fspath(self._path))
        except OSError:
            sock.close()
            raise
        self._sock = sock
        return sock

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _some(sock: socket.socket) -> bytes:
    chunk = sock.recv(_MOST_NBYTES)
    if not chunk:
        raise ConnectionResetError
    return chunk


def main(folder: RuntimeFolder, name: str) -> None:
    fuzzer = Fuzzer(folder, name)
    for line in sys.stdin:
        request = json.loads(line)
        if "rehearse_s" in request:
            sent = fuzzer.rehearse(request["rehearse_s"], request["seed"])
        else:
            sent = fuzzer.run(request["frames"], request["seed"])
        sys.stdout.write(json.dumps({"sent": sent}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(RuntimeFolder(Path(sys.argv[1])), sys.argv[2])
