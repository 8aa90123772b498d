"""What a run stands on: a folder, a keeper with a daemon in it, and the children of the run. All of
it is registered to be cleaned up in the moment in which it is made."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import weightd
from weightd.daemon.main import kept_command
from weightd.daemon.settings import Settings
from weightd.demo.interruption import Signals
from weightd.demo.process import Child
from weightd.errors import BrokenPeerError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.lease import Lease
from weightd.ipc.peer import credentials
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.seqpacket import connect

KEEP = 3  # versions
BUDGET_NBYTES = 256 * 2**20
_START_S = 30.0
_LAST_LINES = 40
STAGING = b"staging lenet version "  # of the log
_STOP_S = 5.0
_POLL_S = 0.002
_ASK_S = 2.0  # a request that a daemon took along is asked again
_PATIENCE_S = 60.0


class Stage:
    """Made on an ExitStack that cleans up after it. Children may be started from any thread."""

    def __init__(self, stack: ExitStack, signals: Signals) -> None:
        self._stack = stack
        self._signals = signals
        self._numbers = count(1)
        self._read_to = self._stagings = self._tracebacks = 0
        with signals.held():
            self.folder = Path(tempfile.mkdtemp(prefix="weightd-stress-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.runtime = RuntimeFolder(self.folder / "run")
        self.runtime.create(0o700)
        settings = Settings(
            keep=KEEP, memory_budget=BUDGET_NBYTES, stage_deadline_s=60, scrub_pause_s=1
        )
        with signals.held():
            self.keeper = Child("keeper", kept_command(self.runtime, settings), self.folder)
            stack.callback(self._end)
        self.wait_until_serving(0.0)

    def _end(self) -> None:
        """Have keeper and daemon end; a daemon that does not, or stands still, is killed."""
        with ExitStack() as stack:
            daemons = []
            for word in self._children_of_keeper().split():
                with suppress(ProcessLookupError):
                    daemons.append(os.pidfd_open(int(word)))
                    stack.callback(os.close, daemons[-1])
            self.keeper.stop(timeout_s=_STOP_S)
            for pidfd in daemons:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _children_of_keeper(self) -> str:
        try:
            return Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def start(self, module: str, *arguments: object) -> Child:
        """`python -m weightd.stress.<module>`, gone when the run ends, or earlier."""
        argv = [sys.executable, "-P", "-m", f"weightd.stress.{module}", *map(str, arguments)]
        with self._signals.held():
            child = Child(f"{module}-{next(self._numbers)}", argv, self.folder)
            self._stack.callback(child.close)
        return child

    def client(self) -> weightd.Client:
        """The caller closes it. It waits a short time for an answer: ask() asks again."""
        return weightd.Client(self.runtime.path, timeout_s=_ASK_S)

    def wait_until_serving(self, former_pid: float) -> int:
        """Return the daemon's PID as soon as one that is not `former_pid` answers on the attach
        socket; BrokenPeerError when none does."""
        deadline_s = time.monotonic() + _START_S
        while time.monotonic() < deadline_s:
            try:
                lease = Lease(self.runtime, timeout_s=_ASK_S)
            except WeightdError:
                if self.keeper.has_ended():
                    break
                time.sleep(_POLL_S)
                continue
            try:
                lease.current_pid()
                pid = self.daemon_pid()
                if pid != former_pid:
                    return pid
            except WeightdError:
                pass
            finally:
                lease.close()
            time.sleep(_POLL_S)
        raise BrokenPeerError(f"no daemon answers\n{self.keeper.tail()}")

    def daemon_pid(self) -> int:
        """As the kernel names whoever listens on the attach socket."""
        with connect(self.runtime.attach, max_fds=0, timeout_s=_ASK_S) as connection:
            return credentials(connection.sock)[0]

    def interpreter_start_s(self) -> float:
        """How long a Python takes that does nothing, started as the daemon is."""
        started_s = time.monotonic()
        subprocess.run([sys.executable, "-P", "-c", "pass"], check=True)
        return time.monotonic() - started_s

    def stagings(self) -> int:
        """How many stagers were started so far for the model that is predicted on, by what the
        daemons logged. For one thread."""
        with (self.folder / "keeper.log").open("rb") as log:
            log.seek(self._read_to)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        self._stagings += whole.count(STAGING)
        self._tracebacks += whole.count(b"Traceback")
        return self._stagings

    def last_words(self) -> str:
        """What the last daemon that ended logged before, for people."""
        text = (self.folder / "keeper.log").read_text(errors="replace")
        before, _, _ = text.rpartition("weightd.keeper: ")
        return "\n".join(before.splitlines()[-_LAST_LINES:])

    def tracebacks(self) -> int:
        """How many errors of ours, which nobody foresaw, the daemons logged so far."""
        self.stagings()
        return self._tracebacks


def status_of(client: weightd.Client) -> protocol.DaemonStatus:
    """The daemon's status, asked for again while there is none, or its answer got lost."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return client.status()
        except BrokenPeerError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(0.01)
