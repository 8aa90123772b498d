"""The service manager that this process runs under: systemd, or a weightd keeper, which speaks the
same protocol (sd_notify(3), sd_listen_fds(3)).

    to it:    READY=1, STATUS=…, WATCHDOG=1, FDSTORE=1 with a descriptor, FDSTOREREMOVE=1, BARRIER=1
    from it:  the environment, and descriptors from number 3 on: sockets, and what it has stored
"""

import os
import socket
import stat
import time
from array import array
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Self

import msgspec

from weightd.errors import StoreError

KEEPER = "weightd-keeper"  # what a keeper calls itself in $WEIGHTD_STORE
STORED_AS = ("state", "segment.", "file.", "folder.")  # how names in the fd store begin
_FIRST_FD = 3
_SEND_S = 2.0
_VARIABLES = (
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "WEIGHTD_STORE",
    "WEIGHTD_UNIT",
)


class Given(msgspec.Struct, frozen=True):
    """What the manager gave this process when it started it. Whoever has this owns `sockets` (which
    listen, by their path) and `stored` (name and descriptor). notify: where to write to, '' for no
    manager; room: how many descriptors it stores, 0 for none; unit: systemd's name for us;
    watchdog_s: how long we may be silent, None for ever."""

    notify: str = ""
    sockets: dict[str, socket.socket] = msgspec.field(default_factory=dict)
    stored: tuple[tuple[str, int], ...] = ()
    room: int = 0
    unit: str = ""
    is_keeper: bool = False
    watchdog_s: float | None = None

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Self:
        """What is meant for this process, which is then no longer in the environment: children get
        nothing of it. Descriptors are closed on exec from here on."""
        found = {name: environ.pop(name, "") for name in _VARIABLES}
        sockets: dict[str, socket.socket] = {}
        stored: list[tuple[str, int]] = []
        for name, fd in _passed(found):
            os.set_inheritable(fd, False)
            # By its name: a client's file, which is stored too, may be a socket with any address.
            if name.startswith(STORED_AS) or not _is_socket(fd):
                stored.append((name, fd))
                continue
            sock = socket.socket(fileno=fd)
            address = sock.getsockname()  # of another family than Unix: not for us
            sockets[address if isinstance(address, str) else repr(address)] = sock
        usec = _number(found["WATCHDOG_USEC"]) if _is_ours(found["WATCHDOG_PID"]) else 0
        return cls(
            found["NOTIFY_SOCKET"],
            sockets,
            tuple(stored),
            _number(found["FDSTORE"]) if found["NOTIFY_SOCKET"] else 0,
            found["WEIGHTD_UNIT"],
            found["WEIGHTD_STORE"] == KEEPER,
            usec / 1e6 if usec else None,
        )

    def socket_at(self, path: Path) -> socket.socket | None:
        """The socket that the manager listens with at this path, for the caller to own."""
        return self.sockets.pop(os.fspath(path), None)


def _passed(found: MutableMapping[str, str]) -> list[tuple[str, int]]:
    count = _number(found["LISTEN_FDS"])
    if not count or not _is_ours(found["LISTEN_PID"] or "-"):
        return []
    names = found["LISTEN_FDNAMES"].split(":")
    names += [""] * (count - len(names))
    return list(zip(names, range(_FIRST_FD, _FIRST_FD + count), strict=False))


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:  # of a file system that is gone
        return False


def _is_ours(pid: str) -> bool:
    """A manager names the process that it means; a number of another one is left over."""
    return not pid or pid == str(os.getpid())


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


class Manager:
    """Writes to the manager's socket. Owns its own end. Without a manager everything but store()
    goes nowhere."""

    def __init__(self, notify: str) -> None:
        self._address = "\0" + notify[1:] if notify.startswith("@") else notify
        self._socket: socket.socket | None = None
        if notify:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_SEND_S)

    def tell(self, *lines: str) -> bool:
        """Say how things are. It is lost when the manager does not read, or is gone: False then."""
        if self._socket is not None:
            text = "\n".join(line.replace("\n", " ") for line in lines)
            try:
                self._socket.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:
                return True
        return True

    def reloading(self) -> None:
        """Say that the settings are being read again; READY=1 ends it."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell("RELOADING=1", f"MONOTONIC_USEC={usec}")

    def store(self, name: str, fd: int) -> None:
        """Have a descriptor kept beyond this process's end; StoreError when it cannot be sent."""
        # FDPOLL=0: systemd would otherwise drop what it cannot poll, such as a memfd.
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd])

    def remove(self, name: str) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def barrier(self) -> int:
        """A descriptor that hangs up once the manager has done all that was sent before. A keeper
        writes there what it refused. The caller owns it."""
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._send("BARRIER=1", [theirs])
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return ours

    def _send(self, text: str, fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            raise StoreError("there is no service manager")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([text.encode()], rights, 0, self._address)
        except OSError as error:  # TimeoutError, too
            why = error.strerror or error
            raise StoreError(
                f"what keeps the weights beyond this daemon takes nothing: {why}"
            ) from error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
