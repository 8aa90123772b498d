"""What the daemon tells a scrubber, on its stdin, and what it reports, over its packet pipe."""

from typing import Annotated

import msgspec

from weightd.ipc.fields import ModelName, Text, Uint64, VersionNumber
from weightd.ipc.wire import Message

MAX_TARGETS = 64  # of one job, which must fit into one message and into the pipe of stdin


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version to check. fds: its segments in its manifest's order, as the scrubber inherits
    them. done: how many of its pieces were checked by a scrubber before; is_sound: all of those
    were as they should be."""

    model: ModelName
    version: VersionNumber
    fds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1, max_length=16)]
    done: Uint64 = 0
    is_sound: bool = True


class ScrubJob(Message, frozen=True):
    """Compare what these versions have in memory with their digests. nbytes_per_s: no faster than
    this, and after everybody else; None: at full speed."""

    targets: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1, max_length=MAX_TARGETS)]
    nbytes_per_s: float | None


class Checked(Message, frozen=True):
    """How far a target is. pieces and nbytes: of it, those of scrubbers before included; seconds:
    what this scrubber took for it; read_nbytes: of all targets, what this scrubber has read."""

    target: Uint64
    pieces: Uint64
    nbytes: Uint64
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    read_nbytes: Uint64
    is_done: bool = False


class Flaw(Message, frozen=True):
    """These bytes of a target are not what they should be. what: the tensor; fault: how one
    knows."""

    target: Uint64
    what: Text
    segment: Annotated[int, msgspec.Meta(ge=0, lt=16)]
    offset: Uint64
    nbytes: Uint64
    fault: Text


ScrubReport = Checked | Flaw
