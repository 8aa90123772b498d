"""A worker's side of the attach plane: the connection that is its lease.

Used by one thread at a time. Every request has one answer; notices may come between the two and
are kept for the next call of notice(). A forked child closes its copy of the socket at once, so
that the daemon sees the end of the process that attached, not of its children.
"""

import os
import select
import weakref
from typing import TYPE_CHECKING, TypeVar

import msgspec

from weightd.errors import BrokenPeerError, DaemonTimeoutError, RefusedError, from_wire
from weightd.ipc import protocol
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.segment import Segment
from weightd.ipc.seqpacket import connect

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Notices = protocol.Notice | protocol.Revocation | protocol.Unhelped | protocol.Goodbye
Reply = TypeVar("Reply", bound=protocol.Message)


class Grant(msgspec.Struct, frozen=True):
    """A version that the daemon let this process map. Whoever has it closes the segments. uid:
    names the version within the incarnation, for ever."""

    model: str
    version: int
    incarnation: str
    segments: tuple[Segment, ...]
    uid: int = 0

    def close(self) -> None:
        for segment in self.segments:
            segment.close()


class Lease:
    """The right to map the live version of one model, for as long as connection and process live.

    timeout_s: how long each answer of the daemon may take.
    """

    def __init__(self, folder: RuntimeFolder, *, timeout_s: float) -> None:
        self.folder = folder
        self.timeout_s = timeout_s
        self.model = ""
        self._handle: int | None = None
        self._connection = connect(folder.attach, max_fds=1, timeout_s=timeout_s)
        self._kept: list[Notices] = []
        self._held: set[int] = set()  # versions that were granted and not released yet
        _open_leases.add(self)

    def current_pid(self) -> int:
        """This process's PID as the kernel reports it to the daemon."""
        self._ask(protocol.CurrentPid())
        return self._answer(protocol.YourPid)[0].pid

    def attach(self, model: str | None, handle: int | None) -> Grant:
        """Begin the lease and get the live version. model: None for the one that the handle is
        for."""
        self._ask(protocol.Attach(model, handle))
        self._handle = handle
        return self._granted()

    def attach_again(self, lost: "Lease", incarnation: str, held: tuple[int, ...]) -> "Grant | int":
        """Go on where a lease of this process was lost, whose versions are `held`, the one that
        predictions run on first. Returns the live version's number if the daemon knows them, else
        that version, as attach() does."""
        self.model, self._handle = lost.model, lost._handle
        self._ask(protocol.Attach(lost.model, lost._handle, incarnation=incarnation, held=held))
        reply, fds = self._answer(protocol.Resumed | protocol.Granted)
        if isinstance(reply, protocol.Resumed):
            self._held = set(reply.held)
            return reply.live
        return self._mapped(reply, fds)

    def pull(self) -> Grant:
        """Get the live version again, after a notice."""
        self._ask(protocol.Pull())
        return self._granted()

    def switched(self, version: int, pause_us: float) -> None:
        self._send(protocol.Switched(version, pause_us))

    def not_switched(self, version: int, reason: str) -> None:
        self._send(protocol.NotSwitched(version, reason[:4000]))

    def runs_on(self, engine: str, note: str) -> None:
        self._send(protocol.RunsOn(engine, note[:4000]))

    def released(self, version: int) -> None:
        if version in self._held:  # else it is of a lease that was lost, and not held for us
            self._held.discard(version)
            self._send(protocol.Released(version))

    def unfit(self, version: int, reason: str) -> None:
        self._send(protocol.Unfit(version, reason[:4000]))

    def notice(self, *, timeout_s: float = 0.0) -> Notices | None:
        """The next notice; None when there is none in that time. BrokenPeerError when the daemon
        is gone."""
        if self._kept:
            return self._kept.pop(0)
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return None
        return self._receive(Notices)[0]

    def fileno(self) -> int:
        """Readable when notice() has something to say."""
        return self._connection.fileno()

    def close(self) -> None:
        _open_leases.discard(self)
        self._connection.close()

    def _granted(self) -> Grant:
        return self._mapped(*self._answer(protocol.Granted))

    def _mapped(self, granted: protocol.Granted, fds: tuple[int, ...]) -> Grant:
        self.model = granted.model
        segments: list[Segment] = []
        try:
            segments.append(_adopt(fds))
            for index in range(1, len(granted.segments)):
                self._ask(protocol.Fetch(granted.version, index))
                segments.append(_adopt(self._answer(protocol.Fetched)[1]))
        except BaseException as error:
            for segment in segments:
                segment.close()
            if isinstance(error, RefusedError):
                self._give_back(granted.version, str(error))
            raise
        self._held.add(granted.version)
        return Grant(
            granted.model, granted.version, granted.incarnation, tuple(segments), granted.uid
        )

    def _give_back(self, version: int, why: str) -> None:
        """A version that could not be mapped is not held for us."""
        self.not_switched(version, why)
        if version not in self._held:
            self._send(protocol.Released(version))

    def _answer(self, kind: "TypeForm[Reply]") -> tuple[Reply, tuple[int, ...]]:
        while True:
            message, fds = self._receive(protocol.AttachReply)
            if isinstance(message, kind):  # type: ignore[arg-type]
                return message, fds
            for fd in fds:
                os.close(fd)
            if isinstance(message, protocol.Failed):
                raise from_wire(message.code, message.text)
            if not isinstance(message, Notices):
                raise BrokenPeerError(f"the daemon answered with {type(message).__name__}")
            self._kept.append(message)

    def _receive(self, kind: "TypeForm[Reply]") -> tuple[Reply, tuple[int, ...]]:
        try:
            received = self._connection.receive()
        except TimeoutError as error:
            raise DaemonTimeoutError(f"the daemon gave no answer in {self.timeout_s} s") from error
        return protocol.decode(received.raw, kind), received.fds

    def _ask(self, message: protocol.Message) -> None:
        """Send a request that has an answer: a daemon that hung up may have said why before."""
        try:
            self._send(message)
        except DaemonTimeoutError:
            raise
        except BrokenPeerError:
            return  # the wait for the answer finds it, or the end

    def _send(self, message: protocol.Message) -> None:
        if not self._connection.send(protocol.encode(message)):
            raise DaemonTimeoutError(f"the daemon read nothing for {self.timeout_s} s")


def _adopt(fds: tuple[int, ...]) -> Segment:
    if len(fds) != 1:
        raise BrokenPeerError("the daemon sent no descriptor where one belongs")
    try:
        return Segment.adopt(fds[0])
    except BaseException:
        os.close(fds[0])
        raise


_open_leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()


def _close_in_child() -> None:
    for lease in list(_open_leases):
        lease.close()


os.register_at_fork(after_in_child=_close_in_child)
