"""What the catalog is made of: versions and their states, models, grants and leases.

Pure data with the rules that concern one of them alone.

    STAGED --publish--> LIVE --replaced--> HELD --last hold ends--> FREED
       |                  ^                  |
       '--abort--> FREED  '-----rollback-----'
"""

from collections.abc import Callable
from enum import Enum, auto

import msgspec

from weightd.daemon.policy import Policy, Rule
from weightd.errors import DamagedError, IllegalTransitionError
from weightd.ipc.peer import Key


class VersionState(Enum):
    STAGED = auto()  # being filled; nobody may attach
    LIVE = auto()  # what new workers attach to
    HELD = auto()  # replaced; a lease or the daemon itself still holds it
    FREED = auto()


class Event(Enum):
    PUBLISH = auto()
    ABORT = auto()
    REPLACE = auto()
    ROLLBACK = auto()
    LAST_HOLD_ENDED = auto()


TRANSITIONS: dict[tuple[VersionState, Event], VersionState] = {
    (VersionState.STAGED, Event.PUBLISH): VersionState.LIVE,
    (VersionState.STAGED, Event.ABORT): VersionState.FREED,
    (VersionState.LIVE, Event.REPLACE): VersionState.HELD,
    (VersionState.HELD, Event.ROLLBACK): VersionState.LIVE,
    (VersionState.HELD, Event.LAST_HOLD_ENDED): VersionState.FREED,
}


class Notify(msgspec.Struct, frozen=True):
    """Action: tell this lease that a newer version is live."""

    lease: int
    version: int


class TellRevoked(msgspec.Struct, frozen=True):
    """Action: tell this lease that it gets no new versions."""

    lease: int
    reason: str


class Free(msgspec.Struct, frozen=True):
    """Action: give the memory of this version back."""

    model: str
    version: int
    uid: int


class GiveUp(msgspec.Struct, frozen=True):
    """Action: have these given up, which are in the fd store only."""

    stored: tuple[str, ...]


Action = Notify | TellRevoked | Free | GiveUp


class Aside(msgspec.Struct, frozen=True):
    """A model of an earlier daemon's that this one cannot serve and a later one may. Its entry in
    the state goes on as it is, and so does what is stored for it, by these names."""

    name: str
    owner_uid: int
    reason: str
    stored: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"model {self.name!r} is kept in the fd store, and this daemon cannot serve it: "
            f"{self.reason}. A daemon that is started when that is mended adopts it; `weightd "
            f"unload {self.name}` gives it up"
        )


class Version(msgspec.Struct, eq=False):
    """One immutable set of weights. uid is unique in the incarnation: unlike (name, number),
    it does not come again when a model is unloaded and another of its name is loaded. once: of the
    request that it comes from. damage: what of it in memory is not as it was published, or ''."""

    uid: int
    number: int
    state: VersionState = VersionState.STAGED
    leases: set[int] = msgspec.field(default_factory=set)
    once: int = 0
    damage: str = ""

    def apply(self, event: Event) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise IllegalTransitionError(
                f"version {self.number} is {self.state.name}: it cannot take {event.name}"
            ) from None

    def check_whole(self, model: str) -> None:
        if self.damage:
            raise DamagedError(
                f"version {self.number} of {model!r} is damaged in memory: {self.damage}; publish "
                "its weights again, or roll back to another"
            )


class Grant(msgspec.Struct, frozen=True):
    """One `allow`: a handle, and the processes that it is for."""

    handle: int
    processes: dict[Key, int]  # key -> pid, for people


class Model(msgspec.Struct, eq=False):
    """A name with versions. `was_live` lists the numbers in the order they were last live.
    configured: the path that the settings have for it,
    '' for a client's model. policy: rules given to it, beside the settings'."""

    name: str
    owner_uid: int
    next_number: int = 1
    versions: dict[int, Version] = msgspec.field(default_factory=dict)
    was_live: list[int] = msgspec.field(default_factory=list)
    grants: list[Grant] = msgspec.field(default_factory=list)
    policy: Policy = msgspec.field(default_factory=Policy)
    is_loaded: bool = True
    configured: str = ""

    @property
    def live(self) -> Version:
        return self.versions[self.was_live[-1]]

    def pid_of(self, key: Key, handle: int | None) -> int | None:
        """The PID under which the process is whitelisted (for this handle), else None."""
        for grant in self.grants:
            if key in grant.processes and handle in (None, grant.handle):
                return grant.processes[key]
        return None

    def strike(self, goes: Callable[[Key, int], bool]) -> int:
        """Forget whitelisted processes, of which key and PID are given; returns how many went."""
        count = 0
        for grant in self.grants:
            for key, pid in list(grant.processes.items()):
                if goes(key, pid):
                    del grant.processes[key]
                    count += 1
        self.grants = [grant for grant in self.grants if grant.processes]
        return count

    def allowed_pids(self) -> list[int]:
        return sorted({pid for grant in self.grants for pid in grant.processes.values()})


class Lease(msgspec.Struct, eq=False):
    """One worker's use of one model. version is what its predictions run on; by is the rule that
    let it in, None for its PID."""

    id: int
    model: Model
    key: Key
    pid: int
    uid: int
    version: int
    by: Rule | None = None
    is_revoked: bool = False
    switches: int = 0
    last_pause_us: float = 0.0
    lag: str = ""
    engine: str = ""
    note: str = ""

    def revoke(self, reason: str) -> TellRevoked:
        self.is_revoked = True
        self.lag = "revoked"
        return TellRevoked(self.id, reason)

    def pardon(self, by: Rule | None) -> Notify:
        """The right is there again, by this rule or the PID."""
        self.is_revoked, self.by = False, by
        live = self.model.live.number
        self.lag = "" if self.version == live else "notified"
        return Notify(self.id, live)
