"""One load or publish, seen from the daemon: a stager child, its reports, and its end.

The daemon parses no model file. It makes an empty memfd, starts the child with it, and afterwards
believes nothing: the memfd must be sealed, its manifest must be valid and be the one asked for.
The child's reports come over a packet pipe, through which no descriptor can travel.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from weightd.daemon.loop import Loop
from weightd.errors import (
    BadRequestError,
    CancelledError,
    RefusedError,
    StagingError,
    WeightdError,
    from_wire,
)
from weightd.ipc import protocol
from weightd.ipc.segment import Segment, new_memfd, reopen_read_only
from weightd.weights.manifest import Manifest, read_manifest

log = logging.getLogger("weightd.staging")

_REPORT_NBYTES = 4096  # PIPE_BUF: what a packet pipe keeps in one piece
_STDERR_NBYTES = 4096
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC")


@dataclass(frozen=True)
class Filled:
    """A sealed segment and its manifest. Whoever has it closes the segment."""

    segment: Segment
    manifest: Manifest


Outcome = Filled | WeightdError
WhenDone = Callable[[Outcome], object]


@dataclass(frozen=True)
class Order:
    """What to stage. base: the live version when this is a publish; its descriptors stay the
    caller's."""

    model: str
    version: int
    file_name: str
    file_fd: int
    folder_fd: int | None
    engine: protocol.Engine
    keep_tensors: bool
    base: Filled | None
    budget_nbytes: int | None
    deadline_s: float


class Staging:
    """A running stager. Calls `when_done` once, with the filled segment or the error."""

    def __init__(
        self,
        loop: Loop,
        order: Order,
        when_progress: Callable[[protocol.Progress], object],
        when_done: WhenDone,
    ) -> None:
        self._loop = loop
        self._order = order
        self._when_progress = when_progress
        self._when_done = when_done
        self._segment_fd = new_memfd(f"weightd:{order.model}.v{order.version}")
        self._report: protocol.Staged | protocol.Failed | None = None
        self._stopped_with: WeightdError | None = None
        self._stderr = b""
        self.progress = protocol.Progress("starting", 0, 0)
        self._start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def stop(self, error: WeightdError) -> None:
        """End the stager; `error` becomes the outcome."""
        if self._stopped_with is None:
            self._stopped_with = error
            self._child.kill()

    def cancel(self, why: str) -> None:
        self.stop(CancelledError(f"staging {self._order.model!r} was cancelled: {why}"))

    # --- the child -----------------------------------------------------------------------

    def _start(self) -> None:
        order = self._order
        self._reports, child_reports = os.pipe2(os.O_CLOEXEC | os.O_DIRECT | os.O_NONBLOCK)
        base_fd = order.base.segment.fileno() if order.base else None
        fds = [self._segment_fd, child_reports, order.file_fd, order.folder_fd, base_fd]
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "weightd.daemon.stager", str(child_reports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[fd for fd in fds if fd is not None],
            env={k: v for k, v in os.environ.items() if k not in _NOT_FOR_CHILDREN},
            start_new_session=True,  # Ctrl-C in the daemon's terminal is not for it
        )
        os.close(child_reports)
        self._pidfd = os.pidfd_open(self._child.pid)
        assert self._child.stdin is not None
        assert self._child.stderr is not None
        with contextlib.suppress(BrokenPipeError), self._child.stdin as stdin:
            stdin.write(protocol.encode(self._job(base_fd)))  # a child that died shows by its end
        os.set_blocking(self._child.stderr.fileno(), False)
        self._loop.add(self._reports, self._read_reports)
        self._loop.add(self._child.stderr.fileno(), self._read_stderr)
        self._loop.add(self._pidfd, self._ended)
        self._loop.call_later(order.deadline_s, self._too_late)

    def _job(self, base_fd: int | None) -> protocol.Job:
        order = self._order
        return protocol.Job(
            model=order.model,
            version=order.version,
            file_name=order.file_name,
            engine=order.engine,
            keep_tensors=order.keep_tensors,
            file_fd=order.file_fd,
            folder_fd=order.folder_fd,
            segment_fd=self._segment_fd,
            base_fd=base_fd,
            budget_nbytes=order.budget_nbytes,
            cpu_s=int(2 * order.deadline_s) + 1,
        )

    def _too_late(self) -> None:
        if self._pidfd >= 0:
            self.stop(
                StagingError(
                    f"staging {self._order.model!r} took longer than {self._order.deadline_s:g} s "
                    "(stage_deadline_s) and was stopped"
                )
            )

    def _read_reports(self) -> None:
        try:
            raw = os.read(self._reports, _REPORT_NBYTES)
        except BlockingIOError:
            return
        if not raw:
            self._loop.remove(self._reports)
            os.close(self._reports)
            self._reports = -1
            return
        try:
            report = protocol.decode(raw, protocol.StagerReport)
        except BadRequestError as error:
            self.stop(
                StagingError(f"the stager of {self._order.model!r} reported nonsense: {error}")
            )
            return
        if isinstance(report, protocol.Progress):
            self.progress = report
            self._when_progress(report)
        else:
            self._report = report

    def _read_stderr(self) -> None:
        assert self._child.stderr is not None
        raw = self._child.stderr.read(_STDERR_NBYTES)
        if raw:
            self._stderr = (self._stderr + raw)[-_STDERR_NBYTES:]
        elif raw is not None:
            self._loop.remove(self._child.stderr.fileno())
            self._child.stderr.close()

    # --- the end -------------------------------------------------------------------------

    def _ended(self) -> None:
        self._drain()
        status = self._child.wait()
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        try:
            outcome: Outcome = self._examine(status)
        except WeightdError as error:
            outcome = error
        os.close(self._segment_fd)
        self._when_done(outcome)

    def _drain(self) -> None:
        """Read what the child left; a process of its own that still writes is not waited for."""
        for _ in range(10_000):
            if self._reports < 0:
                break
            before = self.progress, self._report
            self._read_reports()
            if before == (self.progress, self._report):
                break
        if self._reports >= 0:
            self._loop.remove(self._reports)
            os.close(self._reports)
            self._reports = -1
        assert self._child.stderr is not None
        if not self._child.stderr.closed:
            self._read_stderr()
        if not self._child.stderr.closed:
            self._loop.remove(self._child.stderr.fileno())
            self._child.stderr.close()

    def _examine(self, status: int) -> Filled:
        if self._stopped_with is not None:
            raise self._stopped_with
        if isinstance(self._report, protocol.Failed):
            error = from_wire(self._report.code, self._report.text)
            raise error if isinstance(error, RefusedError) else StagingError(str(error))
        if self._report is None or status != 0:
            raise StagingError(self._cause_of_death(status))
        return self._verify()

    def _verify(self) -> Filled:
        """The daemon's own look at what the stager says is ready."""
        order = self._order
        try:
            segment = _adopt_read_only(self._segment_fd)
        except (WeightdError, OSError) as error:
            raise StagingError(
                f"the stager of {order.model!r} left no sealed segment: {error}"
            ) from error
        try:
            manifest = read_manifest(segment.data)
            if (manifest.model, manifest.version) != (order.model, order.version):
                raise StagingError(
                    f"the stager of {order.model!r} version {order.version} made "
                    f"{manifest.model!r} version {manifest.version}"
                )
            if order.base is not None:
                manifest.check_fits(order.base.manifest)
        except WeightdError:
            segment.close()
            raise
        return Filled(segment, manifest)

    def _cause_of_death(self, status: int) -> str:
        who = f"the stager of {self._order.model!r}"
        last = self._stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        said = f"; it said: {last[0][:300]}" if last else ""
        if status == -signal.SIGKILL:
            return f"{who} was killed, most likely for want of memory{said}"
        if status == -signal.SIGXCPU:
            return f"{who} used up its CPU time and was stopped{said}"
        if status < 0:
            return f"{who} died of {signal.Signals(-status).name} while reading the file{said}"
        return f"{who} ended with status {status} and no result{said}"


def _adopt_read_only(fd: int) -> Segment:
    """The segment through a descriptor that workers may get; `fd` stays the caller's."""
    read_only = reopen_read_only(fd)
    try:
        return Segment.adopt(read_only)
    except BaseException:
        os.close(read_only)
        raise
