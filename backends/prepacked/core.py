"""The core: one onnxruntime session, and the version whose pages it reads.

Runs share the gate, a switch has it to itself. So a run sees one version from its beginning to its
end, and a switch needs no second session.
"""

import os
import threading
import time
import weakref
from collections.abc import Mapping

from weightd.backends.answer import Arrays, check
from weightd.backends.gate import Gate
from weightd.backends.hollow import hollow_file
from weightd.backends.onnxruntime import WEIGHTS, Options, OrtSession
from weightd.backends.prepacked.plan import PAGE_NBYTES, PLAN, Plan, check_page_size
from weightd.backends.prepacked.regions import Addresses, Regions
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.errors import (
    AnswerError,
    BadManifestError,
    CompileError,
    PoisonedError,
    WeightdError,
)
from weightd.ipc import linux
from weightd.weights.arrays import Array


class Core:
    """Built over one version; show() switches it to another of the same graph.

    Raises CompileError when onnxruntime does not take the packed weights, or copies any.
    """

    def __init__(self, version: MappedVersion, threads: Threads) -> None:
        self.version = version
        self.threads = threads
        self._gate = Gate()
        self._poison = ""
        self._plan = plan_of(version)
        self._output_names = [port.name for port in version.manifest.outputs]
        check_page_size()
        try:
            self._session, self._regions = self._built()
            self._regions.lay(_addresses(version, self._plan))
        except OSError as error:
            raise CompileError(f"packed weights could not be mapped: {error}") from error
        linux.trim_heap()  # packing the dummies took as much as the largest of them
        with _fork_lock:
            _cores.add(self)

    def _built(self) -> tuple[OrtSession, Regions]:
        """A session over a hollow file, in which only what kernels read at once is real."""
        pieces = self.version.compiled()
        content: dict[int, bytes | memoryview] = {
            self._plan.ranges[piece.name].offset: _bytes_of(pieces[piece.name])
            for piece in self._plan.pieces
            if piece.is_read
        }
        content[self._plan.dummy.offset] = self._plan.dummy_lines()
        options = Options(optimise=False, threads=self.threads)
        with hollow_file(WEIGHTS, self._plan.dummy.end, content, read=self._plan.dummy) as path:
            options.find_weights_in(str(path.parent))
            session = OrtSession(self.version.graph(), options)
            return session, Regions(self._plan, str(path))

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        self._gate.enter()
        try:
            if self._poison:
                raise PoisonedError(self._poison)
            return self._session.run(self._output_names, inputs)
        finally:
            self._gate.leave()

    def shows(self, version: MappedVersion) -> bool:
        """Whether it is this very version that is shown, mapped once more: then that one is held
        from here on."""
        if self._poison or version.manifest != self.version.manifest:
            return False
        if not self._regions.are_of(_addresses(version, self._plan)):
            return False
        self.version = version
        return True

    def takes(self, version: MappedVersion) -> bool:
        """Whether to show() this version, or to open a new session: the newer of the two says with
        which version a switch was tried when it was made."""
        older, newer = sorted((version, self.version), key=lambda one: one.number)
        return newer.manifest.stamp.get("switch") == str(older.number) and self.fits(version)

    def fits(self, version: MappedVersion) -> bool:
        """Whether the version is of the same graph, its pieces in the same places."""
        return (
            self._plan.is_swappable
            and plan_of(version) == self._plan
            and version.graph() == self.version.graph()
        )

    def show(self, version: MappedVersion) -> float:
        """Switch to a version that fits(); returns for how long runs had to wait, in µs. On an
        OSError the old version is whole; after a PoisonedError nothing runs any more."""
        prepared = self._regions.prepare(_addresses(version, self._plan))
        with prepared, self._gate.closed():
            started = time.perf_counter_ns()
            try:
                self._regions.commit(prepared)
            except PoisonedError as error:
                self._poison = str(error)
                raise
            self.version = version
            return (time.perf_counter_ns() - started) / 1000

    def show_again(self, previous: MappedVersion) -> None:
        """Go back to the version before; nothing runs any more when that cannot be."""
        if self.version is previous:
            return
        try:
            self.show(previous)
        except (OSError, MemoryError, WeightdError) as error:
            self._poison = f"the switch back to version {previous.number} failed: {error}"

    def check(self) -> None:
        """AnswerError unless it gives the reference answer of the version that it shows."""
        answer = self.version.answer()
        if answer is None:
            raise AnswerError("the version has no reference answer to check packed weights by")
        if str(self.threads.count) != self.version.manifest.stamp.get("answer_threads"):
            answer = answer._replace(is_exact=False)  # sums are split in another way
        check(self.run(answer.inputs), answer)


def plan_of(version: MappedVersion) -> Plan:
    """The plan of a version; BadManifestError when it has none, or one that does not fit."""
    pieces = version.compiled()
    if PLAN not in pieces:
        raise BadManifestError("a version of packed weights has no plan of them")
    plan = Plan.decode(pieces[PLAN].tobytes())
    for piece in plan.pieces:
        if piece.name not in pieces or pieces[piece.name].nbytes != piece.nbytes:
            raise BadManifestError(f"a version lacks {piece.name!r} of its own plan")
    return plan


def _addresses(version: MappedVersion, plan: Plan) -> Addresses:
    pieces = version.compiled()
    addresses = {piece.name: pieces[piece.name].ctypes.data for piece in plan.pieces}
    for name, address in addresses.items():
        if address % PAGE_NBYTES:
            raise BadManifestError(f"{name!r} does not begin on a page")
    return addresses


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view("uint8").data


_cores: "weakref.WeakSet[Core]" = weakref.WeakSet()
_at_fork: list[Core] = []
_fork_lock = threading.Lock()


def _before_fork() -> None:
    """No run and no switch goes on while a process forks, so that a child inherits sessions whole,
    and no lock of onnxruntime's that a thread holds which the child does not have. So a fork waits
    for predictions of other threads."""
    _fork_lock.acquire()
    _at_fork.extend(_cores)
    for core in _at_fork:
        core._gate.close()


def _after_fork_in_parent() -> None:
    while _at_fork:
        _at_fork.pop()._gate.open()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    while _at_fork:
        _at_fork.pop()._gate = Gate()
    _fork_lock.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
