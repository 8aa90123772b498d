"""One load or publish, seen from the daemon: a stager child, its reports, and its end.

The daemon parses no model file. It makes an empty memfd, starts the child with it, and afterwards
believes nothing: the memfd must be sealed, its manifest must be valid and be the one asked for.
The child's reports come over a packet pipe, through which no descriptor can travel.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.child import Child
from weightd.daemon.loop import Loop
from weightd.errors import (
    BadRequestError,
    CancelledError,
    InsufficientMemoryError,
    RefusedError,
    StagingError,
    WeightdError,
    from_wire,
)
from weightd.ipc import protocol
from weightd.ipc.fields import AUTOMATIC, Engine
from weightd.ipc.job import Job, Staged, StagerReport
from weightd.ipc.segment import Segment, new_memfd, reopen_read_only
from weightd.weights.manifest import ORIGIN, ORIGIN_WEIGHTS, Manifest, read_manifest
from weightd.weights.names import rules_of
from weightd.weights.share import check_shared

log = logging.getLogger("weightd.staging")

_HEARTBEAT_S = 1.0
STAGER = (sys.executable, "-P", "-m", "weightd.daemon.stager")


class Filled(msgspec.Struct, frozen=True):
    """A version's manifest and its sealed segments, in the manifest's order. The first one is its
    own and belongs to whoever has this; the others are the version's that it followed."""

    manifest: Manifest
    segments: tuple[Segment, ...]

    @property
    def nbytes(self) -> int:
        return sum(self.manifest.segments)


Outcome = Filled | WeightdError
WhenDone = Callable[[Outcome], object]


class Order(msgspec.Struct, frozen=True):
    """What to stage. base: the live version when this is a publish; its segments stay the
    caller's, and must stay open until the end. weights_only: leave a graph aside. names: rules for
    the names of the file. is_same: it is to have the weights of base. kept_for: whose need it is
    that the tensors are kept. is_overlay: base with what `update`, which stays the caller's,
    brings; the file is then the one that base came from, None when it came in memory. is_alone:
    nothing of base's memory is used."""

    model: str
    version: int
    file_name: str
    file_fd: int | None
    folder_fd: int | None
    engine: Engine
    keep_tensors: bool
    base: Filled | None
    budget_nbytes: int | None
    deadline_s: float
    answer_limit_s: float
    weights_only: bool = False
    names: tuple[str, ...] = ()
    is_same: bool = False
    kept_for: str = ""
    is_overlay: bool = False
    is_alone: bool = False
    update: OfferedFile | None = None

    @property
    def kind(self) -> str:
        """load, publish or update, as in Counts."""
        if self.base is None:
            return "load"
        return "update" if self.update else "publish"


class Staging:
    """A running stager. Calls `when_done` once, with the filled segment or the error."""

    def __init__(
        self,
        loop: Loop,
        order: Order,
        when_progress: Callable[[protocol.Progress], object],
        when_done: WhenDone,
        *,
        stager: Sequence[str] = STAGER,
    ) -> None:
        self._loop = loop
        self._order = order
        self._when_progress = when_progress
        self._when_done = when_done
        self._report: Staged | protocol.Failed | None = None
        self._stopped_with: WeightdError | None = None
        self.progress = protocol.Progress("starting", 0, 0)
        self._began_s = time.monotonic()
        self._segment_fd = new_memfd(f"weightd:{order.model}.v{order.version}")
        try:
            self._child = self._start(stager)
        except BaseException:
            os.close(self._segment_fd)
            raise
        self._deadline = loop.call_later(order.deadline_s, self._too_late)
        self._heartbeat = loop.call_later(_HEARTBEAT_S, self._beat)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began_s

    def stop(self, error: WeightdError) -> None:
        """End the stager; `error` becomes the outcome."""
        if self._stopped_with is None:
            self._stopped_with = error
            self._child.kill()

    def cancel(self, why: str) -> None:
        self.stop(CancelledError(f"staging {self._order.model!r} was cancelled: {why}"))

    # --- the child -----------------------------------------------------------------------

    def _start(self, stager: Sequence[str]) -> Child:
        order = self._order
        base_fds = tuple(s.fileno() for s in order.base.segments) if order.base else ()
        update = (order.update.file_fd, order.update.folder_fd) if order.update else ()
        fds = [self._segment_fd, order.file_fd, order.folder_fd, *update, *base_fds]
        return Child(
            self._loop,
            stager,
            pass_fds=[fd for fd in fds if fd is not None],
            message=lambda: protocol.encode(self._job(base_fds)),
            when_report=self._got,
            when_ended=self._ended,
        )

    def _job(self, base_fds: tuple[int, ...]) -> Job:
        order = self._order
        return Job(
            model=order.model,
            version=order.version,
            file_name=order.file_name,
            engine=order.engine,
            keep_tensors=order.keep_tensors,
            file_fd=order.file_fd,
            folder_fd=order.folder_fd,
            segment_fd=self._segment_fd,
            base_fds=base_fds,
            budget_nbytes=order.budget_nbytes,
            cpu_s=int(order.deadline_s * (os.cpu_count() or 1)) + 1,
            answer_limit_s=order.answer_limit_s,
            kept_for=order.kept_for,
            weights_only=order.weights_only,
            names=order.names,
            is_overlay=order.is_overlay,
            is_alone=order.is_alone,
            update_fd=order.update.file_fd if order.update else None,
            update_folder_fd=order.update.folder_fd if order.update else None,
            update_name=order.update.name if order.update else "",
        )

    def _beat(self) -> None:
        """An engine that compiles says nothing; whoever waits hears that it still does."""
        self._when_progress(self.progress)
        self._heartbeat = self._loop.call_later(_HEARTBEAT_S, self._beat)

    def _too_late(self) -> None:
        self.stop(
            StagingError(
                f"staging {self._order.model!r} took longer than {self._order.deadline_s:g} s "
                "(stage_deadline_s) and was stopped"
            )
        )

    def _got(self, raw: bytes) -> None:
        try:
            report = protocol.decode(raw, StagerReport)
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

    # --- the end -------------------------------------------------------------------------

    def _ended(self, status: int) -> None:
        self._deadline.cancel()
        self._heartbeat.cancel()
        try:
            outcome: Outcome = self._examine(status)
        except WeightdError as error:
            outcome = error
        os.close(self._segment_fd)
        self._when_done(outcome)

    def _examine(self, status: int) -> Filled:
        if self._stopped_with is not None:
            raise self._stopped_with
        if isinstance(self._report, protocol.Failed):
            error = from_wire(self._report.code, self._report.text)
            raise error if isinstance(error, RefusedError) else StagingError(str(error))
        if self._report is None or status != 0:
            raise StagingError(self._cause_of_death(status))
        return self._verify(self._report.base_segments)

    def _verify(self, base_segments: tuple[int, ...]) -> Filled:
        """The daemon's own look at what the stager says is ready."""
        order, segment = self._order, self._sealed()
        try:
            with segment.data as data:  # released here: a refusal's traceback would keep it
                manifest = read_manifest(data)
            if (manifest.model, manifest.version) != (order.model, order.version):
                raise StagingError(
                    f"the stager of {order.model!r} version {order.version} made "
                    f"{manifest.model!r} version {manifest.version}"
                )
            if not _is_asked_for(order.engine, manifest):
                raise StagingError(f"the stager of {order.model!r} used another engine than asked")
            if not _is_named_as_asked(order.names, manifest):
                raise StagingError(f"the stager of {order.model!r} gave other names than asked")
            if not _is_updated_as_asked(order, manifest):
                raise StagingError(f"the stager of {order.model!r} lost or made up an update")
            if not _is_of_the_same_origin(order, manifest):
                raise StagingError(f"the stager of {order.model!r} gave it another origin")
            older = self._older_segments(manifest, base_segments)
        except WeightdError:
            segment.close()
            raise
        return Filled(manifest, (segment, *older))

    def _sealed(self) -> Segment:
        """The segment that the stager left."""
        try:
            return _adopt_read_only(self._segment_fd)
        except InsufficientMemoryError:  # here, which is not the stager's doing
            raise
        except (WeightdError, OSError) as error:
            raise StagingError(
                f"the stager of {self._order.model!r} left no sealed segment: {error}"
            ) from error

    def _older_segments(
        self, manifest: Manifest, base_segments: tuple[int, ...]
    ) -> tuple[Segment, ...]:
        """The live version's segments that the new one uses: those that the stager named."""
        base = self._order.base
        if base is None:
            if base_segments or len(manifest.segments) > 1:
                raise StagingError("the stager of a first version speaks of older segments")
            return ()
        if base_segments and self._order.is_alone:
            raise StagingError("the stager uses segments that it must not")
        manifest.check_fits(base.manifest)
        check_shared(manifest, base.manifest, base_segments)
        return tuple(base.segments[number] for number in base_segments)

    def _cause_of_death(self, status: int) -> str:
        who = f"the stager of {self._order.model!r}"
        said = f"; it said: {self._child.last_words}" if self._child.last_words else ""
        if status == -signal.SIGKILL:
            return f"{who} was killed, most likely for want of memory{said}"
        if status == -signal.SIGXCPU:
            return f"{who} used up its CPU time and was stopped{said}"
        if status < 0:
            return f"{who} died of {signal.Signals(-status).name} while reading the file{said}"
        return f"{who} ended with status {status} and no result{said}"


def _is_asked_for(engine: Engine, manifest: Manifest) -> bool:
    found = manifest.stamp.get("engine")
    if manifest.layout == "tensors":
        return found == ""
    return found in ((engine,) if engine else AUTOMATIC)


def _is_named_as_asked(rules: tuple[str, ...], manifest: Manifest) -> bool:
    """By these rules, and to names of the model's: whoever published is shown them."""
    if rules_of(manifest.stamp) != rules or (manifest.renamed and not rules):
        return False
    new = set(filter(None, manifest.renamed.values()))
    return new <= {parameter.name for parameter in manifest.parameters}


def _is_updated_as_asked(order: Order, manifest: Manifest) -> bool:
    """What earlier updates brought is still said to be theirs, and nothing without an update."""
    if not order.is_overlay:
        return not manifest.updated
    assert order.base is not None
    before = set(order.base.manifest.updated)
    return before <= set(manifest.updated) and (
        order.update is not None or before == set(manifest.updated)
    )


def _is_of_the_same_origin(order: Order, manifest: Manifest) -> bool:
    """Workers prove by it that they have the model's file."""
    if order.base is None:
        return True
    first = order.base.manifest.stamp
    return all(manifest.stamp.get(key) == first.get(key) for key in (ORIGIN, ORIGIN_WEIGHTS))


def _adopt_read_only(fd: int) -> Segment:
    """The segment through a descriptor that workers may get; `fd` stays the caller's."""
    read_only = reopen_read_only(fd)
    try:
        return Segment.adopt(read_only)
    except BaseException:
        os.close(read_only)
        raise


def check_same(manifest: Manifest, order: Order) -> None:
    """StagingError unless the file still gave the weights that the live version has."""
    assert order.base is not None
    live = order.base.manifest
    if manifest.stamp.get("weights", "") != live.stamp.get("weights"):
        raise StagingError(
            f"{order.file_name} has other weights now than when version {live.version} of "
            f"{order.model!r} was made from it"
        )
