"""ZMTP by hand, of every version: what a peer may say that libzmq would not."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.raw import TIMEOUT_S

MORE, COMMAND, LONG = 1, 4, 2


@contextmanager
def stream(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(os.fspath(path))  # waits for room in the queue, as with a timeout it would not
        sock.settimeout(TIMEOUT_S)
        yield sock


def zmtp1(*parts: bytes) -> bytes:
    """An anonymous peer of ZMTP 1: lengths count the flags."""
    last = len(parts) - 1
    frames = [bytes([len(p) + 1, MORE if i < last else 0]) + p for i, p in enumerate(parts)]
    return b"\x01\x00" + b"".join(frames)


def frames(*parts: bytes) -> bytes:
    """One message as ZMTP 2 and 3 write it."""
    out = b""
    for index, part in enumerate(parts):
        flags = MORE if index < len(parts) - 1 else 0
        if len(part) < 256:
            out += bytes([flags, len(part)]) + part
        else:
            out += bytes([flags | LONG]) + len(part).to_bytes(8, "big") + part
    return out


def zmtp2(*parts: bytes) -> bytes:
    """A DEALER of ZMTP 2 without an identity."""
    signature = b"\xff" + bytes(8) + b"\x7f"
    return signature + b"\x01\x05" + frames(b"") + frames(*parts)


def handshake(**properties: bytes) -> bytes:
    """Of a DEALER of ZMTP 3 with the NULL mechanism. properties: besides Socket-Type."""
    ready = b"\x05READY"
    for name, value in ({"Socket_Type": b"DEALER"} | properties).items():
        key = name.replace("_", "-").encode()
        ready += bytes([len(key)]) + key + len(value).to_bytes(4, "big") + value
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    return greeting + bytes([COMMAND | LONG]) + len(ready).to_bytes(8, "big") + ready


class Zmtp3:
    """A connection that has shaken hands."""

    def __init__(self, sock: socket.socket, **properties: bytes) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        sock.sendall(handshake(**properties))
        assert self._receive(64)[10] == 3
        flags, _ = self._frame()
        assert flags & COMMAND

    def say(self, *parts: bytes) -> None:
        self._sock.sendall(frames(*parts))

    def hear(self) -> list[bytes]:
        parts = []
        flags = MORE
        while flags & MORE:
            flags, part = self._frame()
            parts.append(part)
        return parts

    def _frame(self) -> tuple[int, bytes]:
        flags = self._receive(1)[0]
        nbytes = int.from_bytes(self._receive(8 if flags & LONG else 1), "big")
        return flags, self._receive(nbytes)

    def _receive(self, nbytes: int) -> bytes:
        raw = self._file.read(nbytes)
        assert len(raw) == nbytes, "hung up"
        return raw
