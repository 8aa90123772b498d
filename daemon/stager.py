"""The stager: a disposable child that reads, compiles and seals one version, then exits.

Whatever a hostile file does, it does here: under limits on memory and CPU, first in line for the
OOM killer, with no socket of the daemon's. It gets its job on stdin, the files and the empty
segment as inherited descriptors, and reports over a packet pipe.

Run by the daemon as `python -m weightd.daemon.stager REPORT_FD`.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

from weightd.errors import InsufficientMemoryError, WeightdError, to_wire
from weightd.ipc import linux, protocol
from weightd.ipc.job import Job

_REFUSED_STATUS = 3
_GRACE_CPU_S = 5
_BASE_NBYTES = 4 * 2**30  # the address space that the libraries and their threads take
_TEXT_NBYTES = 3000  # a report is one packet of at most 4096 bytes
_REPORT_EVERY_S = 0.1


class Reporter:
    """Sends reports to the daemon; progress at most ten times a second and at each new step."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last_step = ""
        self._last_s = 0.0

    def progress(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if step == self._last_step and now - self._last_s < _REPORT_EVERY_S:
            return
        self._last_step, self._last_s = step, now
        try:
            self.send(protocol.Progress(step, done, total))
        except BlockingIOError:
            return  # the daemon is behind: it gets the next one

    def send(self, message: protocol.Message) -> None:
        os.write(self._fd, protocol.encode(message))

    def final(self, message: protocol.Message) -> None:
        os.set_blocking(self._fd, True)
        self.send(message)


def main() -> int:
    job = protocol.decode(sys.stdin.buffer.read(), Job)
    reporter = Reporter(int(sys.argv[1]))
    _restrain(job)
    try:
        reporter.progress("starting", 0, 0)
    except BrokenPipeError:
        return _REFUSED_STATUS  # the daemon died before die_with_parent could tell
    from weightd.backends.builder import build  # here: it loads numpy and an engine

    try:
        staged = build(job, reporter.progress, _allow_memory)
    except WeightdError as error:
        code, text = to_wire(error)
        cut = text.encode()[:_TEXT_NBYTES].decode(errors="ignore")  # not in the middle of a sign
        reporter.final(protocol.Failed(code, cut))
        return _REFUSED_STATUS
    except MemoryError:
        text = (
            f"staging {job.model!r} needs more memory than a file of this size is allowed; "
            "a constant that grows while it is read (Expand, Tile, a compressed member) does that"
        )
        reporter.final(protocol.Failed(InsufficientMemoryError.__name__, text))
        return _REFUSED_STATUS
    reporter.final(staged)
    return 0


def _restrain(job: Job) -> None:
    linux.die_with_parent(signal.SIGKILL)
    Path("/proc/self/oom_score_adj").write_text("1000")  # before hiding: /proc/self is root's then
    linux.hide_from_same_user()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # SIGXCPU first, which says why; SIGKILL for a process that ignores it.
    resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_s, job.cpu_s + _GRACE_CPU_S))
    fds = (job.file_fd, job.update_fd, *job.base_fds)
    _allow_memory(max(os.fstat(fd).st_size for fd in fds if fd is not None))


def _allow_memory(weights_nbytes: int) -> None:
    """Limit the address space to what weights of this size can honestly need: what is in memory at
    the peak of a compilation, the mappings of the live version and of a session on the new one."""
    nbytes = _BASE_NBYTES + 10 * weights_nbytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        nbytes = min(nbytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (nbytes, hard))


if __name__ == "__main__":
    sys.exit(main())
