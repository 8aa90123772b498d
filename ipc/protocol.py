"""Every message of every socket, and the encoding of all. The only file that imports msgpack.

A message is a frozen struct; its class name is its tag on the wire. decode() takes bytes of an
untrusted peer: msgpack with its limits set, then a check of tag, fields and types. What is not
exactly one of the expected messages raises BadRequestError and goes no further.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgpack
import msgspec

from weightd.errors import BadRequestError
from weightd.ipc.status import ModelStatus, StagingStatus, WorkerStatus

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # a type or a union of types, as a value

PROTOCOL_VERSION = 1
MAX_MESSAGE_NBYTES = 64 * 1024  # a SEQPACKET message of 300 KB is EMSGSIZE
MAX_PIDS = 4096

Uint64 = Annotated[int, msgspec.Meta(ge=0)]  # msgpack itself ends at 2**64 - 1
Pid = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
_NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,127}\Z"
_NAME_RULE = "a model's name has 1 to 128 letters, digits and _.:+-, the first one no sign but _"
ModelName = Annotated[str, msgspec.Meta(pattern=_NAME_PATTERN)]
VersionNumber = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Engine = Literal["", "prepacked", "plain", "reference"]  # '': what suits the model
AUTOMATIC: tuple[Engine, ...] = ("prepacked", "plain")  # what '' stands for: the first that suits
NameRules = Annotated[  # how names of a file become the model's: weights/names.py
    tuple[Annotated[str, msgspec.Meta(max_length=2100, pattern=r"^[^\x00-\x1f]*\Z")], ...],
    msgspec.Meta(max_length=256),
]
Pids = Annotated[tuple[Pid, ...], msgspec.Meta(max_length=MAX_PIDS)]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of every message; the class name is its tag on the wire."""


# --- requests on the control plane -------------------------------------------------------


class CurrentPid(Message, frozen=True):
    """Which PID does the kernel report for me? Also on the attach plane."""


class Load(Message, frozen=True):
    """Load the offered file as a new model and publish it as version 1."""

    model: ModelName
    ticket: Uint64
    engine: Engine = ""
    keep_tensors: bool = False
    dry_run: bool = False
    weights_only: bool = False
    once: Uint64 = 0


class Unload(Message, frozen=True):
    """Forget a model: no new attach; memory goes when the last lease ends."""

    model: ModelName


class Allow(Message, frozen=True):
    """Whitelist living processes for a model; the answer is their handle."""

    model: ModelName
    pids: Pids


class Revoke(Message, frozen=True):
    """End the right of processes (none named: all) to attach and to get new versions."""

    model: ModelName
    pids: Pids = ()
    kill: bool = False


class Publish(Message, frozen=True):
    """Stage the offered full set of weights as the next version and make it live.

    once: a random number, the same one when a request is sent again because the daemon ended
    meanwhile: what was carried out already is not done twice."""

    model: ModelName
    ticket: Uint64
    dry_run: bool = False
    names: NameRules = ()
    once: Uint64 = 0


class Update(Message, frozen=True):
    """Stage the next version: what the offered file brings, and the rest as it is in the live one;
    and make it live."""

    model: ModelName
    ticket: Uint64
    dry_run: bool = False
    once: Uint64 = 0


class Rollback(Message, frozen=True):
    """Make a held version live again; none named: the one before the live one."""

    model: ModelName
    version: VersionNumber | None = None
    once: Uint64 = 0


class Cancel(Message, frozen=True):
    """Stop the load or publish of this model that is being staged."""

    model: ModelName


class Status(Message, frozen=True):
    """What the daemon holds, and for whom."""


class Shutdown(Message, frozen=True):
    """Drain and exit."""


ControlRequest = (
    CurrentPid
    | Load
    | Unload
    | Allow
    | Revoke
    | Publish
    | Update
    | Rollback
    | Cancel
    | Status
    | Shutdown
)

# --- replies -----------------------------------------------------------------------------


class Failed(Message, frozen=True):
    """The request was refused: the name of an error class and its message."""

    code: str
    text: str


class YourPid(Message, frozen=True):
    pid: Pid


class Done(Message, frozen=True):
    """The request was carried out and there is nothing to tell."""


class Progress(Message, frozen=True):
    """A load or publish goes on. Any number of these come before the final reply."""

    step: str
    done: Uint64
    total: Uint64


class Live(Message, frozen=True):
    """This version is now live (with a dry run: would be, as this number). renamed: what rules made
    of the file's names; "": left out."""

    model: ModelName
    version: VersionNumber
    nbytes: Uint64
    renamed: dict[str, str] = {}


class Allowed(Message, frozen=True):
    handle: Uint64


class Revoked(Message, frozen=True):
    """How many processes lost the right; which of them still hold memory; which were killed."""

    pids: tuple[int, ...]
    still_mapped: tuple[int, ...]
    killed: tuple[int, ...]
    not_killed: tuple[str, ...]


class DaemonStatus(Message, frozen=True):
    """The answer to Status. models is by name; sizes in bytes, times in seconds."""

    pid: int
    incarnation: str
    version: str
    uptime_s: float
    runtime_dir: str
    identity: str
    held_nbytes: int
    budget_nbytes: int | None
    models: dict[str, ModelStatus]
    workers: tuple[WorkerStatus, ...]
    staging: tuple[StagingStatus, ...]


ControlReply = Failed | YourPid | Done | Progress | Live | Allowed | Revoked | DaemonStatus

# --- admin socket: files come as descriptors ---------------------------------------------


class Offer(Message, frozen=True):
    """Here is a file (first descriptor) and, for external data, its folder (second one)."""

    name: Text
    has_folder: bool = False


class Offered(Message, frozen=True):
    """The file is held under this ticket until used, or until this connection closes."""

    ticket: Uint64


# --- attach plane ------------------------------------------------------------------------


class Attach(Message, frozen=True):
    """Let me map a model; none named: the one that the handle is for.

    held: what a worker that had a lease of this incarnation has mapped, the version that it
    predicts on first; it gets Resumed instead of a version, if the daemon knows them."""

    model: ModelName | None
    handle: Uint64 | None = None
    protocol: int = PROTOCOL_VERSION
    incarnation: Annotated[str, msgspec.Meta(max_length=64)] = ""
    held: Annotated[tuple[VersionNumber, ...], msgspec.Meta(max_length=256)] = ()


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


AttachRequest = (
    CurrentPid | Attach | Pull | Fetch | Switched | NotSwitched | Released | RunsOn | Unfit
)


class Granted(Message, frozen=True):
    """A version to map: the sizes of its segments; the first one's descriptor comes along."""

    model: ModelName
    version: VersionNumber
    incarnation: str
    segments: tuple[int, ...]


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


AttachReply = (
    Failed | YourPid | Granted | Resumed | Fetched | Notice | Revocation | Unhelped | Goodbye
)

# --- events (PUB) ------------------------------------------------------------------------


class Event(Message, frozen=True):
    """Something happened: what is one of loaded, published, updated, rolled-back, unloaded, freed,
    allowed, revoked, attached, switched, fell-back, detached, failed, stopping."""

    what: str
    model: str
    version: int
    pid: int
    text: str


# --- encoding ----------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return pack(msgspec.to_builtins(message, builtin_types=(bytes,)))


M = TypeVar("M")


def decode(
    raw: bytes | memoryview, kind: "TypeForm[M]", *, max_nbytes: int = MAX_MESSAGE_NBYTES
) -> M:
    """The message in `raw`, which must be one of `kind`; else BadRequestError."""
    return convert(unpack(raw, max_nbytes=max_nbytes), kind)


def pack(value: Any) -> bytes:
    """msgpack bytes of plain values (None, bool, int, float, str, bytes, list, dict)."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(raw: bytes | memoryview, *, max_nbytes: int) -> Any:
    """The plain value in untrusted msgpack bytes; BadRequestError when it is not exactly one."""
    if len(raw) > max_nbytes:
        raise BadRequestError(f"a message of {len(raw)} bytes; the limit is {max_nbytes}")
    try:
        return msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            max_str_len=max_nbytes,
            max_bin_len=max_nbytes,
            max_array_len=max_nbytes,
            max_map_len=max_nbytes,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise BadRequestError(f"not a msgpack message: {error}") from error


def convert(value: Any, kind: "TypeForm[M]") -> M:
    """`value` as an instance of `kind`, checked field by field; else BadRequestError."""
    try:
        plain: Any = kind  # msgspec's own types know classes only
        converted: M = msgspec.convert(value, plain, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        if _NAME_PATTERN in str(error):
            raise BadRequestError(_NAME_RULE) from error
        raise BadRequestError(f"not a valid message: {error}") from error
    return converted
