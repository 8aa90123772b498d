"""A client's way to one daemon: requests and their answers, files as descriptors, and what happens
when the daemon ends meanwhile."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from weightd.errors import (
    BadFileError,
    BadRequestError,
    BrokenPeerError,
    DaemonTimeoutError,
    NoAccessError,
    NoDaemonError,
    WeightdError,
    from_wire,
)
from weightd.ipc import protocol, seqpacket
from weightd.ipc.channel import ControlClient
from weightd.ipc.runtime import RuntimeFolder

if TYPE_CHECKING:
    from weightd.weights.arrays import Array

OnProgress = Callable[[protocol.Progress], object]
Reply = TypeVar("Reply", bound=protocol.Message)
Result = TypeVar("Result")

RETRY_S = 0.02
_MAX_LOSSES = 10
_RETURN_S = 2.0  # a daemon that a service manager starts again is back by then
_MAX_REPLY_NBYTES = 64 * 2**20


class Link:
    """Owns the sockets. timeout_s: how long the daemon may be silent."""

    def __init__(self, folder: RuntimeFolder, timeout_s: float) -> None:
        self.folder = folder
        self.timeout_s = timeout_s
        self._channel = ControlClient(folder.control, folder.events)

    def events(self, topic: str) -> Iterator[bytes | None]:
        """What the channel gives; where there is a keeper, also of the daemons that follow. None
        after a gap: the daemon was away, another one is here now, or some came too fast."""
        away_since_s: float | None = None
        is_first = True
        while True:
            try:
                for event in self._channel.events(topic):
                    away_since_s = None
                    if event is not None or not is_first:
                        yield event
                    is_first = False
            except NoDaemonError as error:
                if isinstance(error, NoAccessError) and is_first and away_since_s is None:
                    raise
                away_since_s = away_since_s or time.monotonic()
                is_late = time.monotonic() - away_since_s >= self.timeout_s
                if is_late or not self.folder.names_keeper():
                    raise
            time.sleep(RETRY_S)

    def close(self) -> None:
        self._channel.close()

    def ask(
        self,
        request: protocol.ControlRequest,
        kind: type[Reply],
        on_progress: OnProgress | None = None,
    ) -> Reply:
        return self.repeated(lambda _: self.ask_once(request, kind, on_progress))

    def staged(
        self,
        name: str,
        file: "str | os.PathLike[str] | Mapping[str, Array]",
        request: Callable[[int, int], protocol.ControlRequest],
        on_progress: OnProgress | None,
    ) -> protocol.Live:
        """request: made of a ticket, and of a number that stays the same when it is repeated."""
        once = secrets.randbits(63)

        def attempt(_: bool) -> protocol.Live:
            with self._offered(name, file) as ticket:
                return self.ask_once(request(ticket, once), protocol.Live, on_progress)

        return self.repeated(attempt)

    def repeated(self, attempt: Callable[[bool], Result]) -> Result:
        """What attempt() returns. It is made again when the daemon ends meanwhile, or is away and
        has a keeper, until one answers or the time is up; it is told whether that is so. A daemon
        that does not let this user in is not away; after one that was, the next one's sockets are
        let be made first: they are private before they are anybody's."""
        away_since_s: float | None = None
        losses = 0
        while True:
            try:
                return attempt(losses > 0)
            except DaemonTimeoutError:
                raise
            except BrokenPeerError as error:
                if isinstance(error, NoAccessError) and away_since_s is None:
                    raise
                was_there = not isinstance(error, NoDaemonError)
                losses += was_there
                if was_there or away_since_s is None:
                    away_since_s = time.monotonic()
                is_kept = self.folder.names_keeper()
                limit_s = self.timeout_s if is_kept else _RETURN_S if losses else 0.0
                # A request that daemon after daemon dies of is not given to one more.
                if losses > _MAX_LOSSES or time.monotonic() - away_since_s >= limit_s:
                    raise
            time.sleep(RETRY_S)

    def ask_once(
        self,
        request: protocol.ControlRequest,
        kind: type[Reply],
        on_progress: OnProgress | None = None,
    ) -> Reply:
        raw = protocol.encode(_validated(request))
        for answer in self._channel.request(raw, timeout_s=self.timeout_s):
            reply = protocol.decode(answer, protocol.ControlReply, max_nbytes=_MAX_REPLY_NBYTES)
            if isinstance(reply, protocol.Progress):
                if on_progress is not None:
                    on_progress(reply)
            elif isinstance(reply, protocol.Failed):
                raise from_wire(reply.code, reply.text)
            elif isinstance(reply, kind):
                return reply
            else:
                raise BrokenPeerError(f"the daemon answered with {type(reply).__name__}")
        raise BrokenPeerError("the daemon stopped answering")

    @contextmanager
    def _offered(
        self, name: str, file: "str | os.PathLike[str] | Mapping[str, Array]"
    ) -> Iterator[int]:
        """A ticket for the file, good while this lasts: leaving it early cancels the request."""
        with ExitStack() as resources:
            label, fds = _opened(name, file)
            for fd in fds:
                resources.callback(os.close, fd)
            connection = resources.enter_context(
                seqpacket.connect(self.folder.admin, max_fds=0, timeout_s=self.timeout_s)
            )
            offer = protocol.Offer(label, has_folder=len(fds) == 2)
            raw = self._exchange(connection, protocol.encode(offer), fds)
            reply = protocol.decode(raw, protocol.Offered | protocol.Failed)
            if isinstance(reply, protocol.Failed):
                raise from_wire(reply.code, reply.text)
            yield reply.ticket

    def _exchange(self, connection: seqpacket.Connection, raw: bytes, fds: list[int]) -> bytes:
        try:
            is_sent = connection.send(raw, fds)
        except BrokenPeerError:  # a daemon that hung up may have said why before
            is_sent = True
        with contextlib.suppress(TimeoutError):
            if is_sent:
                return connection.receive().raw
        raise DaemonTimeoutError(f"the daemon did not take the file in {self.timeout_s} s")


def _opened(
    name: str, file: "str | os.PathLike[str] | Mapping[str, Array]"
) -> tuple[str, list[int]]:
    """What to call the file, and its descriptor, and its folder's when it has one."""
    if isinstance(file, Mapping):
        from weightd.weights.safetensors import write_safetensors

        return "memory", [write_safetensors(file, name=name)]
    path = Path(file)
    fds: list[int] = []
    try:
        fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        fds.append(os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise BadFileError(f"cannot open {path}: {error.strerror}") from error
    return os.fsencode(path.name).decode(errors="replace"), fds


def _validated(request: protocol.ControlRequest) -> protocol.ControlRequest:
    """The same check that the daemon makes, before anything is sent."""
    try:
        return protocol.decode(protocol.encode(request), protocol.ControlRequest)
    except (WeightdError, OverflowError, TypeError, UnicodeEncodeError) as error:
        from weightd.ipc.faults import fault_in  # here: what is right needs none

        fault = fault_in(msgspec.structs.asdict(request), type(request))
        reason = f"{fault.place} {fault.what}" if fault and fault.path else str(error)
        raise BadRequestError(reason) from error
