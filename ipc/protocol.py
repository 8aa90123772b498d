"""Every message of every socket. How they are encoded is in wire.py, what a field may hold in
fields.py; messages of the attach socket alone are in attach_messages.py.

A message is a frozen struct; its class name is its tag on the wire.
"""

from typing import get_args

from weightd.ipc.attach_messages import (
    PROTOCOL_VERSION,
    Attach,
    Fetch,
    Fetched,
    Goodbye,
    Granted,
    Notice,
    NotSwitched,
    Pull,
    Released,
    Resumed,
    Revocation,
    RunsOn,
    Switched,
    Unfit,
    Unhelped,
)
from weightd.ipc.counts import Counts
from weightd.ipc.fields import (
    Engine,
    ModelName,
    NameRules,
    Pid,
    Pids,
    RuleTexts,
    Text,
    Uint64,
    VersionNumber,
)
from weightd.ipc.status import ModelStatus, StagingStatus, VersionCheck, WorkerStatus
from weightd.ipc.wire import (
    MAX_MESSAGE_NBYTES,
    Message,
    convert,
    decode,
    encode,
    pack,
    unpack,
)

# What else whoever speaks of messages needs.
__all__ = [
    "MAX_MESSAGE_NBYTES",
    "PROTOCOL_VERSION",
    "Attach",
    "Fetch",
    "Fetched",
    "Goodbye",
    "Granted",
    "Message",
    "NotSwitched",
    "Notice",
    "Pull",
    "Released",
    "Resumed",
    "Revocation",
    "RunsOn",
    "Switched",
    "Unfit",
    "Unhelped",
    "convert",
    "decode",
    "encode",
    "pack",
    "unpack",
]

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
    """Whitelist living processes for a model, whose handle is the answer; or let in all that fit a
    rule."""

    model: ModelName
    pids: Pids = ()
    rules: RuleTexts = ()


class Deny(Message, frozen=True):
    """Let nobody in who fits a rule, whoever else lets him in. lift: take such rules back."""

    model: ModelName
    rules: RuleTexts
    lift: bool = False
    kill: bool = False


class Revoke(Message, frozen=True):
    """End the right of processes to attach and to get new versions, and of those that these rules
    let in. Neither named: of all, and of all rules."""

    model: ModelName
    pids: Pids = ()
    kill: bool = False
    rules: RuleTexts = ()


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


class Verify(Message, frozen=True):
    """Compare what this model's versions (none named: all that are held) have in memory with their
    digests, now and at full speed. Progress comes before the reply."""

    model: ModelName | None = None


class Status(Message, frozen=True):
    """What the daemon holds, and for whom."""


class Counters(Message, frozen=True):
    """What the daemon has counted since it began."""


class Upgrade(Message, frozen=True):
    """Drain, exit, and be started again, with the weights kept."""


class Shutdown(Message, frozen=True):
    """Drain and exit."""


ControlRequest = (
    CurrentPid
    | Load
    | Unload
    | Allow
    | Deny
    | Revoke
    | Publish
    | Update
    | Rollback
    | Cancel
    | Verify
    | Status
    | Counters
    | Upgrade
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
    """A load, publish or verify goes on. Any number of these come before the final reply."""

    step: str
    done: Uint64
    total: Uint64


class Live(Message, frozen=True):
    """This version is now live (with a dry run: would be, as this number). renamed: what rules made
    of the file's names; "": left out. nbytes: 0 of a version that was freed before this could be
    told."""

    model: ModelName
    version: VersionNumber
    nbytes: Uint64
    renamed: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it


class Allowed(Message, frozen=True):
    """handle: of the processes that were named, None when none was. notes: what keeps the rules
    from letting anybody in."""

    handle: Uint64 | None = None
    notes: tuple[str, ...] = ()


class Revoked(Message, frozen=True):
    """Which processes lost the right; which of them still hold memory; which were killed; which
    rules were taken back; which stand and let such processes in again."""

    pids: tuple[int, ...]
    still_mapped: tuple[int, ...]
    killed: tuple[int, ...]
    not_killed: tuple[str, ...]
    rules: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()


class Verified(Message, frozen=True):
    """The answer to Verify: one entry for each version."""

    versions: tuple[VersionCheck, ...]


class DaemonStatus(Message, frozen=True):
    """The answer to Status. models is by name; sizes in bytes, times in seconds. deny: whom no
    model lets in. store: who keeps the weights when the daemon ends: systemd, keeper, '' for
    nobody. notes: what an operator should look at. damaged_versions: how many of those held now are
    marked; scrubbed_nbytes: read and compared since the start."""

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
    deny: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    damaged_versions: int = 0
    store: str = ""
    scrubbed_nbytes: int = 0


class Tally(Message, frozen=True):
    """The answer to Counters."""

    counts: Counts


ControlReply = (
    Failed | YourPid | Done | Progress | Live | Allowed | Revoked | Verified | DaemonStatus | Tally
)

# --- admin socket: files come as descriptors ---------------------------------------------


class Offer(Message, frozen=True):
    """Here is a file (first descriptor) and, for external data, its folder (second one)."""

    name: Text
    has_folder: bool = False


class Offered(Message, frozen=True):
    """The file is held under this ticket until used, or until this connection closes."""

    ticket: Uint64


# --- attach plane ------------------------------------------------------------------------

AttachRequest = (
    CurrentPid | Attach | Pull | Fetch | Switched | NotSwitched | Released | RunsOn | Unfit
)

REQUESTS: dict[str, tuple[type[Message], ...]] = {  # that are counted, by plane
    "control": get_args(ControlRequest),
    "attach": get_args(AttachRequest),
}

AttachReply = (
    Failed | YourPid | Granted | Resumed | Fetched | Notice | Revocation | Unhelped | Goodbye
)

# --- events ------------------------------------------------------------------------------


EVENTS = (
    "loaded",
    "published",
    "updated",
    "rolled-back",
    "unloaded",
    "freed",
    "allowed",
    "denied",
    "denial-lifted",
    "revoked",
    "attached",
    "switched",
    "fell-back",
    "detached",
    "failed",
    "corrupt",
    "started",
    "set-aside",
    "stopping",
)


class Event(Message, frozen=True):
    """Something happened: what is one of EVENTS, or `missed`, which a client says by itself where
    it could not follow. No model, version 0 and PID 0: it is about none."""

    what: str
    model: str
    version: int
    pid: int
    text: str

    @property
    def sentence(self) -> str:
        """For people, without what it is not about."""
        version = f"version {self.version}" if self.version else ""
        pid = f"pid {self.pid}" if self.pid else ""
        return " ".join(filter(None, (self.what, self.model, version, pid, self.text)))
