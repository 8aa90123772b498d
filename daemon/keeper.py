"""The keeper: a small parent that holds the daemon's descriptors and starts it again when it dies.

For containers and laptops, where no systemd does that; it speaks systemd's protocol, so that the
daemon sees no difference (ipc/manager.py). It knows nothing of models, and imports the standard
library alone. Whatever fails in here is survived: with the keeper all weights go.

    python -m weightd.daemon.keeper NOTIFY_PATH WATCHDOG_S DAEMON_ARGV...
"""

import contextlib
import fcntl
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from array import array

RESTART_STATUS = 75  # of a daemon that wants to be started again, at once
_USER_MISTAKE = 2  # exit status of a daemon whose settings are wrong
_ROOM = 4096  # descriptors, where the system lets a process have twice as many
_FIRST_FD, _OWN_FDS = 3, 64
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DELAY_S, _MAX_DELAY_S = 0.1, 5.0
_NEVER_S, _ABORT_S = 1e6, 1.0
_WELL_S = 1.0  # who was ready, and has lived that long, is started again at once
_CREDENTIALS = struct.Struct("iII")
_NOT_PASSED = ("WATCHDOG_PID", "LISTEN_PIDFDID", "WEIGHTD_UNIT")  # of our manager


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads the log any more
        os.write(2, f"weightd.keeper: {text}\n".encode())


class Keeper:
    """Owns what is stored, the notification socket and the daemon's process."""

    def __init__(self, path: str, watchdog_s: float, argv: list[str]) -> None:
        self._path, self._watchdog_s, self._argv = path, watchdog_s, argv
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        # What is handed over is there twice meanwhile.
        self._room = _ROOM if limit < 0 else max(0, min(_ROOM, limit // 2 - _OWN_FDS))
        self._stored: dict[str, int] = {}
        self._refused: list[str] = []  # since the last barrier
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        os.fchmod(self._notify.fileno(), 0o600)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            if not probe.connect_ex(path):
                say("another keeper serves this folder already")
                sys.exit(_USER_MISTAKE)
        if os.path.lexists(path):  # of a keeper that was killed
            os.unlink(path)
        self._notify.bind(path)
        self._wake, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for sock, read in ((self._notify, self._read_notify), (self._wake, self._read_signals)):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, read)
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up tells which
        self._pid = 0  # of the daemon; 0 while there is none
        self._was_ready = self._is_ready = self._is_ending = self._is_hung = False
        self._began_s = self._delay_s = self._due_s = 0.0  # due: to start it, or take it for hung
        self._status: int | None = None  # ours, once it is known

    def run(self) -> int:
        while self._status is None:
            for key, _ in self._selector.select(max(0.0, self._due_s - time.monotonic())):
                key.data()
            if self._status is None and time.monotonic() >= self._due_s:
                if self._pid:
                    say(f"the daemon (pid {self._pid}) was silent for {self._watchdog_s:g} s")
                    os.kill(self._pid, signal.SIGKILL if self._is_hung else signal.SIGABRT)
                    self._is_hung, self._due_s = True, time.monotonic() + _ABORT_S
                else:
                    self._start()
        return self._status

    def _start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}
        environ |= {
            "NOTIFY_SOCKET": self._path,
            "FDSTORE": str(self._room),
            "WEIGHTD_STORE": "weightd-keeper",
            "WATCHDOG_USEC": str(int(self._watchdog_s * 1e6)),
            "LISTEN_FDS": str(len(self._stored)),
            "LISTEN_FDNAMES": ":".join(self._stored),
        }
        self._is_ready, self._is_hung, self._refused = False, False, []
        self._began_s = time.monotonic()
        self._heard()
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)  # until the daemon has its handlers
        try:
            self._pid = os.fork()
        except OSError as error:
            self._start_later(f"the daemon cannot be started: {error.strerror}")
        else:
            if not self._pid:
                _become(self._argv, environ, list(self._stored.values()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

    def _heard(self) -> None:
        self._due_s = time.monotonic() + (self._watchdog_s or _NEVER_S)

    def _start_later(self, why: str) -> None:
        if self._is_ready:
            self._delay_s = 0.0 if time.monotonic() - self._began_s > _WELL_S else _DELAY_S
        else:  # it does not even begin to serve
            self._delay_s = min(2 * self._delay_s or _DELAY_S, _MAX_DELAY_S)
        self._due_s = time.monotonic() + self._delay_s
        say(f"{why}; starting it again in {self._delay_s:g} s")

    def _ended(self, pid: int, status: int) -> None:
        is_mistake = status == _USER_MISTAKE and not self._was_ready
        if self._is_ending or not status or is_mistake:
            self._status = 0 if status == RESTART_STATUS else max(status, 0)
        elif status == RESTART_STATUS:
            self._due_s = self._delay_s = 0.0
        else:
            self._start_later(f"the daemon (pid {pid}) ended with status {status}")

    def _read_signals(self) -> None:
        for number in self._wake.recv(256):
            self._is_ending = self._is_ending or number in (signal.SIGTERM, signal.SIGINT)
            if number in _FORWARDED and self._pid:
                os.kill(self._pid, number)
        if self._is_ending and not self._pid:
            self._status = 0
        with contextlib.suppress(ChildProcessError):  # as PID 1 it gets the orphans of others, too
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._pid:
                    self._pid = 0
                    self._ended(found[0], os.waitstatus_to_exitcode(found[1]))

    def _read_notify(self) -> None:
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(16 * 4)
        raw, ancillary, _, _ = self._notify.recvmsg(8192, space, socket.MSG_CMSG_CLOEXEC)
        fds, sender = array("i"), 0
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(data)
            elif kind == socket.SCM_CREDENTIALS:
                sender = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        try:
            if sender == self._pid != 0:  # nobody but the daemon itself: a child could forge
                lines = raw.decode("utf-8", "replace").splitlines()
                self._heed(dict(line.split("=", 1) for line in lines if "=" in line), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _heed(self, said: dict[str, str], fds: "array[int]") -> None:
        """Do what the daemon asks; what is taken out of `fds` is kept."""
        self._heard()
        self._is_ready = self._is_ready or said.get("READY") == "1"
        self._was_ready = self._was_ready or self._is_ready
        name = said.get("FDNAME", "")
        if said.get("FDSTORE") == "1":
            is_new = name and ":" not in name and name not in self._stored
            if is_new and fds and len(self._stored) < self._room:
                self._stored[name] = fds.pop()
            else:
                self._refused.append(name or "what has no name")
        if said.get("FDSTOREREMOVE") == "1" and name in self._stored:
            os.close(self._stored.pop(name))
        if said.get("BARRIER") == "1":
            refused, self._refused = ", ".join(self._refused).encode()[:4000], []
            with contextlib.suppress(OSError):  # the daemon has died, or waits no longer
                for fd in fds if refused else ():
                    os.set_blocking(fd, False)
                    os.write(fd, refused)


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


if __name__ == "__main__":
    kept = Keeper(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
    try:
        sys.exit(kept.run())
    finally:
        os.unlink(sys.argv[1])  # the rest goes with the process
