"""A child process of the daemon: started with a message on stdin, it reports over a packet pipe and
ends. Knows nothing of what it does.

A pipe carries no descriptors, and in packet mode keeps each report in one piece, so that a hostile
child can send neither a stalling descriptor nor half a message.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence

from weightd.daemon.loop import Loop
from weightd.errors import StagingError

_REPORT_NBYTES = 4096  # PIPE_BUF: what a packet pipe keeps in one piece
_STDERR_NBYTES = 4096
_LEFT_REPORTS = 1000  # how many are read after the end; a grandchild could write for ever
# glibc 2.35: large allocations on huge pages. An engine that compiles spends half of its time in
# page faults without.
_FOR_CHILDREN = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Child:
    """Owns the process and its pipes. Calls `when_report` with each report, then `when_ended` once
    with the exit status (negative: the signal), when nothing of it is left."""

    def __init__(
        self,
        loop: Loop,
        argv: Sequence[str],
        *,
        pass_fds: Sequence[int],
        message: Callable[[], bytes],
        when_report: Callable[[bytes], object],
        when_ended: Callable[[int], object],
    ) -> None:
        self._loop = loop
        self._when_report = when_report
        self._when_ended = when_ended
        self._last_words = b""
        self._reports, child_end = os.pipe2(os.O_CLOEXEC | os.O_DIRECT | os.O_NONBLOCK)
        try:
            self._process = _spawn([*argv, str(child_end)], [*pass_fds, child_end])
        except BaseException:
            os.close(self._reports)
            raise
        finally:
            os.close(child_end)
        self._pidfd = self._open_pidfd()
        stdin, stderr = self._process.stdin, self._process.stderr
        assert stdin is not None
        assert stderr is not None
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(message())  # one that died already shows by its end
        self._stderr = stderr
        os.set_blocking(stderr.fileno(), False)
        loop.add(self._reports, self._read_reports)
        loop.add(stderr.fileno(), self._read_stderr)
        loop.add(self._pidfd, self._end)

    def _open_pidfd(self) -> int:
        try:
            return os.pidfd_open(self._process.pid)
        except OSError:  # no descriptor left
            with self._process:
                self._process.kill()
            os.close(self._reports)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The last line that it wrote to stderr."""
        lines = self._last_words.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def kill(self) -> None:
        self._process.kill()

    def _read_reports(self) -> bool:
        """Pass one report on; False when there is none."""
        try:
            raw = os.read(self._reports, _REPORT_NBYTES)
        except BlockingIOError:
            return False
        if raw:
            self._when_report(raw)
        else:
            self._close_reports()
        return bool(raw)

    def _close_reports(self) -> None:
        if self._reports >= 0:
            self._loop.remove(self._reports)
            os.close(self._reports)
            self._reports = -1

    def _read_stderr(self) -> None:
        raw = self._stderr.read(_STDERR_NBYTES)
        if raw:
            self._last_words = (self._last_words + raw)[-_STDERR_NBYTES:]
        elif raw is not None:
            self._close_stderr()

    def _close_stderr(self) -> None:
        if not self._stderr.closed:
            self._loop.remove(self._stderr.fileno())
            self._stderr.close()

    def _end(self) -> None:
        for _ in range(_LEFT_REPORTS):
            if self._reports < 0 or not self._read_reports():
                break
        if not self._stderr.closed:
            self._read_stderr()
        self._close_reports()
        self._close_stderr()
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        self._when_ended(self._process.wait())


def _spawn(argv: Sequence[str], pass_fds: Sequence[int]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            env={**_FOR_CHILDREN, **os.environ},
            start_new_session=True,  # Ctrl-C in the daemon's terminal is not for it
        )
    except OSError as error:
        raise StagingError(f"a child process could not be started: {error.strerror}") from error
