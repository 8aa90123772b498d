"""The keeper: a small parent that holds the daemon's descriptors and starts it again when it dies.

For containers and laptops, where no systemd does that; it speaks systemd's protocol, so that the
daemon sees no difference (ipc/manager.py). It knows nothing of models, and imports the standard
library alone: there is little in it that could fail.

    python -m weightd.daemon.keeper NOTIFY_PATH WATCHDOG_S DAEMON_ARGV...
"""

import fcntl
import os
import selectors
import signal
import socket
import struct
import sys
import time
from array import array

ROOM = 4096  # descriptors
RESTART_STATUS = 75  # of a daemon that wants to be started again, at once
_USER_MISTAKE = 2  # exit status of a daemon whose settings are wrong
_FIRST_FD = 3
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ENDING = (signal.SIGTERM, signal.SIGINT)
_DELAY_S, _MAX_DELAY_S = 0.05, 5.0
_WELL_S = 1.0  # who has lived that long is started again at once
_CREDENTIALS = struct.Struct("iII")
_MESSAGE_NBYTES = 8192


def say(text: str) -> None:
    sys.stderr.write(f"weightd.keeper: {text}\n")


class Keeper:
    """Owns what is stored, the notification socket and the daemon's process."""

    def __init__(self, path: str, watchdog_s: float, argv: list[str]) -> None:
        self._argv = argv
        self._watchdog_s = watchdog_s
        self._stored: dict[str, int] = {}
        self._refused: list[str] = []  # since the last barrier
        self._path = path
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        os.fchmod(self._notify.fileno(), 0o600)
        self.unlink()  # of a keeper that was killed
        self._notify.bind(path)
        self._wake, self._wakes = socket.socketpair()
        for sock in (self._notify, self._wake, self._wakes):
            sock.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up tells which
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._notify, selectors.EVENT_READ, self._read_notify)
        self._selector.register(self._wake, selectors.EVENT_READ, self._read_signals)
        self._pid = 0  # of the daemon; 0 while there is none
        self._was_ready = self._is_ending = False
        self._delay_s = 0.0
        self._began_s = self._due_s = self._heard_s = 0.0
        self._status: int | None = None  # ours, once it is known

    def run(self) -> int:
        while self._status is None:
            if not self._pid and time.monotonic() >= self._due_s:
                self._start()
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            if self._pid and self._watchdog_s and self._silent_s() > self._watchdog_s:
                say(f"the daemon (pid {self._pid}) has been silent for {self._watchdog_s:g} s")
                os.kill(self._pid, signal.SIGKILL)
                self._heard_s = time.monotonic()
        return self._status

    def unlink(self) -> None:
        if os.path.lexists(self._path):
            os.unlink(self._path)

    def _silent_s(self) -> float:
        return time.monotonic() - self._heard_s

    def _timeout_s(self) -> float | None:
        if not self._pid:
            return max(0.0, self._due_s - time.monotonic())
        return max(0.01, self._watchdog_s - self._silent_s()) if self._watchdog_s else None

    # --- the daemon's process ------------------------------------------------------------

    def _start(self) -> None:
        names, fds = list(self._stored), list(self._stored.values())
        environ = os.environ | {
            "NOTIFY_SOCKET": self._path,
            "FDSTORE": str(ROOM),
            "WEIGHTD_STORE": "weightd-keeper",
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(names),
        }
        if self._watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(self._watchdog_s * 1e6))
        self._began_s = self._heard_s = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            _become(self._argv, environ, fds)

    def _reap(self) -> None:
        """As PID 1 of a container this gets the orphans of others, too."""
        pid = 1
        while pid:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == self._pid != 0:
                self._pid = 0
                self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, status: int) -> None:
        is_first_mistake = status == _USER_MISTAKE and not self._was_ready
        if self._is_ending or status == 0 or is_first_mistake:
            self._status = max(status, 0)
            return
        has_lived_well = time.monotonic() - self._began_s > _WELL_S
        if status == RESTART_STATUS or has_lived_well:
            self._delay_s = 0.0
        self._due_s = time.monotonic() + self._delay_s
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended ({status})"
        say(f"the daemon (pid {pid}) {how}; starting it again in {self._delay_s:g} s")
        self._delay_s = min(max(self._delay_s * 2, _DELAY_S), _MAX_DELAY_S)

    # --- what comes in -------------------------------------------------------------------

    def _read_signals(self) -> None:
        for number in self._wake.recv(256):
            if number in _ENDING:
                self._is_ending = True
                if not self._pid:
                    self._status = 0
            if number in _FORWARDED and self._pid:
                os.kill(self._pid, number)
        self._reap()

    def _read_notify(self) -> None:
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(16 * 4)
        raw, ancillary, _, _ = self._notify.recvmsg(_MESSAGE_NBYTES, space, socket.MSG_CMSG_CLOEXEC)
        fds, sender = array("i"), 0
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            elif kind == socket.SCM_CREDENTIALS:
                sender = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        try:
            if sender == self._pid != 0:  # nobody but the daemon itself: a child could forge
                self._heed(dict(_pairs(raw)), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _heed(self, said: dict[str, str], fds: "array[int]") -> None:
        """Do what the daemon asks; what is taken out of `fds` is kept."""
        self._heard_s = time.monotonic()
        self._was_ready = self._was_ready or said.get("READY") == "1"
        name = said.get("FDNAME", "")
        if said.get("FDSTORE") == "1" and fds:
            if name in self._stored or len(self._stored) >= ROOM or not name or ":" in name:
                self._refused.append(name)
            else:
                self._stored[name] = fds.pop()
        if said.get("FDSTOREREMOVE") == "1" and name in self._stored:
            os.close(self._stored.pop(name))
        if said.get("BARRIER") == "1" and fds and self._refused:
            os.set_blocking(fds[0], False)
            os.write(fds[0], ", ".join(self._refused).encode()[:4000])
        if said.get("BARRIER") == "1":
            self._refused.clear()


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    lines = raw.decode("utf-8", "replace").splitlines()
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def _become(argv: list[str], environ: dict[str, str], fds: list[int]) -> None:
    """In the forked child: the daemon, with `fds` from number 3 on."""
    try:
        beyond = _FIRST_FD + len(fds)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for fd in fds]
        for number, fd in enumerate(moved, _FIRST_FD):
            os.dup2(fd, number)
        os.execve(argv[0], argv, environ | {"LISTEN_PID": str(os.getpid())})
    finally:
        os._exit(127)


def main(argv: list[str]) -> int:
    keeper = Keeper(argv[1], float(argv[2]), argv[3:])
    try:
        return keeper.run()
    finally:
        keeper.unlink()  # the rest goes with the process


if __name__ == "__main__":
    sys.exit(main(sys.argv))
