"""The messages of the attach socket, between a worker and the daemon. Those that other sockets have
too, and the unions of all, are in protocol.py."""

from typing import Annotated

import msgspec

from weightd.ipc.fields import ModelName, Text, Uint64, VersionNumber
from weightd.ipc.wire import Message

PROTOCOL_VERSION = 1


# --- requests ----------------------------------------------------------------------------


class Attach(Message, frozen=True):
    """Let me map a model; none named: the one that the handle is for.

    held: what a worker that had a lease of this incarnation has mapped, by the uids that came with
    Granted, the version that it predicts on first; it gets Resumed instead of a version, if the
    daemon knows them: a number alone comes again when a model is unloaded and loaded."""

    model: ModelName | None
    handle: Uint64 | None = None
    protocol: int = PROTOCOL_VERSION
    incarnation: Annotated[str, msgspec.Meta(max_length=64)] = ""
    held: Annotated[tuple[Uint64, ...], msgspec.Meta(max_length=256)] = ()


class Pull(Message, frozen=True):
    """Give me the live version; the answer to a Notice."""


class Fetch(Message, frozen=True):
    """Give me this segment of a version that was granted to me."""

    version: VersionNumber
    index: Annotated[int, msgspec.Meta(ge=0, lt=16)]


class Switched(Message, frozen=True):
    """My predictions now run on this version; pause_us is how long they had to wait."""

    version: VersionNumber
    pause_us: Annotated[float, msgspec.Meta(ge=0, le=1e12)]  # which refuses NaN, too


class NotSwitched(Message, frozen=True):
    """I could not switch to this version and stay on the one I have."""

    version: VersionNumber
    reason: Text


class Released(Message, frozen=True):
    """Nothing of mine maps this version any more."""

    version: VersionNumber


class RunsOn(Message, frozen=True):
    """My predictions run on this engine. note: why it is not the one of the version, or ''."""

    engine: Annotated[str, msgspec.Meta(max_length=64)]
    note: Text


class Unfit(Message, frozen=True):
    """I cannot use this version as it was compiled; I could with its original tensors. A Notice
    follows when there is a version that has them, else Unhelped."""

    version: VersionNumber
    reason: Text


# --- replies, and what the daemon says by itself -----------------------------------------


class Granted(Message, frozen=True):
    """A version to map: the sizes of its segments; the first one's descriptor comes along."""

    model: ModelName
    version: VersionNumber
    incarnation: str
    segments: tuple[int, ...]
    uid: Uint64 = 0


class Resumed(Message, frozen=True):
    """Your lease goes on: these versions are held for you."""

    live: VersionNumber
    held: tuple[int, ...]


class Fetched(Message, frozen=True):
    """One more segment; its descriptor comes along."""

    version: VersionNumber
    index: int


class Notice(Message, frozen=True):
    """A newer version is live. Sent at most once until the worker pulls."""

    version: VersionNumber


class Revocation(Message, frozen=True):
    """You get no new versions. What you have mapped stays readable."""

    reason: str


class Goodbye(Message, frozen=True):
    """The daemon ends. What you have mapped stays readable."""

    reason: str


class Unhelped(Message, frozen=True):
    """There will be no version that has the tensors you need."""

    reason: str
