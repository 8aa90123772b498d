"""The scrubber: a child that compares what versions have in memory with their digests, then exits.

It gets its job on stdin and the segments as inherited descriptors, through which nothing can be
written, and reports over a packet pipe; it has no socket. It reads by pread in pieces that stay in
the processor's cache: nothing is mapped but a manifest, for a moment, so that the memory of a freed
version goes with this process and with nothing else. A round in the background is slow on purpose,
and runs when nobody else wants the processor.

Run by the daemon as `python -m weightd.daemon.scrubber REPORT_FD`.
"""

import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from xxhash import xxh3_128

from weightd.errors import WeightdError
from weightd.ipc import linux, protocol
from weightd.ipc.scrub import Checked, Flaw, ScrubJob, Target
from weightd.ipc.segment import Segment
from weightd.weights.manifest import Manifest, read_manifest
from weightd.weights.pieces import Piece, pieces_of

MAX_FLAWS = 20  # of one version: more say nothing new, and the rest of it is left alone
_BASE_NBYTES = 4 * 2**30  # of addresses: a manifest's objects, and the libraries
_CHUNK_NBYTES = 256 * 1024
_MIN_CHUNK_NBYTES = 4096
_CHUNKS_PER_S = 10  # of a slow round: often enough to be even, seldom enough to cost nothing
_REPORT_EVERY_S = 0.1  # while somebody watches
_SLOW_REPORT_EVERY_S = 2.0
_TEXT_NBYTES = 1500  # a report is one packet of at most 4096 bytes
_NICE_WHEN_ASKED = 10


class Pace:
    """Waits after each chunk until the next one is due. What was missed is not made up for."""

    def __init__(self, nbytes_per_s: float | None) -> None:
        self._nbytes_per_s = nbytes_per_s
        self._due_s = time.monotonic()
        chunk = _CHUNK_NBYTES if nbytes_per_s is None else int(nbytes_per_s / _CHUNKS_PER_S)
        self.chunk_nbytes = max(_MIN_CHUNK_NBYTES, min(_CHUNK_NBYTES, chunk))

    def wait(self, nbytes: int) -> None:
        if self._nbytes_per_s is None:
            return
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - 1 / _CHUNKS_PER_S) + nbytes / self._nbytes_per_s
        time.sleep(max(0.0, self._due_s - now_s))


class _Course(msgspec.Struct):
    """How far one target is."""

    number: int
    pieces: int
    nbytes: int = 0
    flaws: int = 0
    began_s: float = msgspec.field(default_factory=time.monotonic)


class Scrubber:
    """Reads each piece of each target. send: takes a report, and waits for a daemon that is
    behind."""

    def __init__(self, job: ScrubJob, send: Callable[[protocol.Message], object]) -> None:
        self._job = job
        self._send = send
        self._pace = Pace(job.nbytes_per_s)
        self._buffer = memoryview(bytearray(self._pace.chunk_nbytes))
        self._shared = _shared_inodes(job.targets)
        self._known: dict[tuple[int, int, int, bytes], str] = {}  # pieces of these, and their fault
        self._read_nbytes = 0
        self._report_every_s = _REPORT_EVERY_S if job.nbytes_per_s is None else _SLOW_REPORT_EVERY_S
        self._reported_s = 0.0

    def run(self) -> None:
        for number, target in enumerate(self._job.targets):
            self._check(number, target)

    def _check(self, number: int, target: Target) -> None:
        course = _Course(number, target.done)
        try:
            pieces = pieces_of(_manifest(target.fds[0]))
        except (WeightdError, OSError) as error:
            self._send(Flaw(number, "the manifest", 0, 0, 0, _cut(str(error))))
            self._report(course, is_done=True)
            return
        inodes = [os.fstat(fd).st_ino for fd in target.fds]
        for piece in pieces[: target.done]:
            course.nbytes += piece.nbytes
            if target.is_sound:
                self._remember(inodes, piece, "")
        for piece in pieces[target.done :]:
            self._compare(course, target, inodes, piece)
            if course.flaws >= MAX_FLAWS:
                break
        self._report(course, is_done=True)

    def _compare(self, course: _Course, target: Target, inodes: list[int], piece: Piece) -> None:
        fault = self._fault(target, inodes, piece, lambda read: self._report(course, more=read))
        if fault:
            course.flaws += 1
            self._send(_flaw(course.number, piece, fault))
        course.pieces += 1
        course.nbytes += piece.nbytes
        self._report(course)

    def _report(self, course: _Course, *, more: int = 0, is_done: bool = False) -> None:
        """Every now and then, and at the end. more: read of the piece that is next."""
        now_s = time.monotonic()
        if not is_done and now_s - self._reported_s < self._report_every_s:
            return
        self._reported_s = now_s
        nbytes, took_s = course.nbytes + more, now_s - course.began_s
        self._send(
            Checked(course.number, course.pieces, nbytes, took_s, self._read_nbytes, is_done)
        )

    def _fault(
        self, target: Target, inodes: list[int], piece: Piece, when_read: Callable[[int], object]
    ) -> str:
        """What is wrong with these bytes, or ''. Those that another target has too are read
        once."""
        key = (inodes[piece.segment], *piece[1:4])
        if key in self._known:
            return self._known[key]
        fault = self._compared(target.fds[piece.segment], piece, when_read)
        self._remember(inodes, piece, fault)
        return fault

    def _compared(self, fd: int, piece: Piece, when_read: Callable[[int], object]) -> str:
        hasher, done = xxh3_128(), 0
        while done < piece.nbytes:
            chunk = self._buffer[: piece.nbytes - done]
            try:
                count = os.preadv(fd, [chunk], piece.offset + done)
            except OSError as error:  # a page that the hardware gave up is EIO
                return f"it cannot be read: {error.strerror}"
            if count == 0:
                return "the segment ends before it does"
            hasher.update(chunk[:count])
            done += count
            self._read_nbytes += count
            when_read(done)
            self._pace.wait(count)
        if (found := hasher.digest()) != piece.digest:
            return f"its digest is {found.hex()}, not {piece.digest.hex()}"
        return ""

    def _remember(self, inodes: list[int], piece: Piece, fault: str) -> None:
        if inodes[piece.segment] in self._shared:
            self._known[inodes[piece.segment], *piece[1:4]] = fault


def main() -> int:
    job = protocol.decode(sys.stdin.buffer.read(), ScrubJob)
    report_fd = int(sys.argv[1])
    _restrain(job)
    os.set_blocking(report_fd, True)
    try:
        Scrubber(job, lambda message: os.write(report_fd, protocol.encode(message))).run()
    except BrokenPipeError:
        return 1  # the daemon has ended
    return 0


def _restrain(job: ScrubJob) -> None:
    linux.die_with_parent(signal.SIGKILL)
    Path("/proc/self/oom_score_adj").write_text("1000")  # before hiding: /proc/self is root's then
    linux.hide_from_same_user()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    largest = max(os.fstat(fd).st_size for target in job.targets for fd in target.fds)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _BASE_NBYTES + largest  # whose manifest is mapped for a moment
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    _yield_to_others(is_asked=job.nbytes_per_s is None)


def _yield_to_others(*, is_asked: bool) -> None:
    with suppress(PermissionError):  # in a sandbox that forbids it; the rate holds all the same
        if is_asked:
            os.nice(_NICE_WHEN_ASKED)  # somebody waits for it, but predictions go first
            return
        os.nice(19)
        # Without a priority of its own for I/O (swapped pages) a process of this class has `idle`
        # there too: ioprio_get(2).
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _manifest(fd: int) -> Manifest:
    """Of the version whose segment 0 this is; checked, its digest too."""
    with Segment.adopt(os.dup(fd)) as segment, segment.data as data:
        return read_manifest(data)


def _shared_inodes(targets: Iterable[Target]) -> set[int]:
    counts = Counter(os.fstat(fd).st_ino for target in targets for fd in target.fds)
    return {inode for inode, count in counts.items() if count > 1}


def _flaw(number: int, piece: Piece, fault: str) -> Flaw:
    what = _cut(piece.what)
    return Flaw(number, what, piece.segment, piece.offset, piece.nbytes, _cut(fault))


def _cut(text: str) -> str:
    return text.encode()[:_TEXT_NBYTES].decode(errors="ignore")  # not in the middle of a sign


if __name__ == "__main__":
    sys.exit(main())
