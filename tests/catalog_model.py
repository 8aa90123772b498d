"""What a catalog must do, said a second time and in plain dicts: what tests/test_catalog_machine.py
holds the real one to."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from weightd.daemon.limits import GRANTS_PER_PROCESS, LEASES_PER_PROCESS
from weightd.errors import (
    BadHandleError,
    BusyError,
    DamagedError,
    IllegalTransitionError,
    LimitError,
    ModelExistsError,
    NotAllowedError,
    RefusedError,
    UnknownModelError,
    UnknownVersionError,
)

Refusal = type[RefusedError] | None


@dataclass(eq=False)
class Told:
    """One model. held: uid by number; order: numbers as they were last live, the live one last;
    handles: by PID, oldest first; allow and deny: uids."""

    name: str
    held: dict[int, int] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    next_number: int = 1
    handles: dict[int, list[int]] = field(default_factory=dict)
    allow: set[int] = field(default_factory=set)
    deny: set[int] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)
    is_loaded: bool = True

    @property
    def live(self) -> int:
        return self.order[-1]

    def lets_in(self, pid: int) -> bool:
        uid = uid_of(pid)
        return (bool(self.handles.get(pid)) or uid in self.allow) and uid not in self.deny


@dataclass(eq=False)
class Worker:
    """One lease. maps: uids of versions; runs: the number that it predicts on."""

    pid: int
    told: Told
    maps: set[int]
    runs: int
    is_revoked: bool = False


@dataclass(eq=False)
class Away:
    """A worker whose daemon died: it still maps these, the one that it runs first."""

    pid: int
    name: str
    maps: list[int]


def uid_of(pid: int) -> int:
    """Of the user whose process this is: there are two."""
    return pid % 2


@dataclass(eq=False)
class Expected:
    """The whole catalog. awaited: uids that stay until everybody had the time to come back."""

    keep: int
    most_versions: int
    most_leases: int
    models: dict[str, Told] = field(default_factory=dict)
    staged: dict[str, int] = field(default_factory=dict)  # the number, by the model's name
    workers: dict[int, Worker] = field(default_factory=dict)
    away: list[Away] = field(default_factory=list)
    awaited: set[int] = field(default_factory=set)
    unloaded: list[Told] = field(default_factory=list)  # that somebody maps
    aside: dict[str, Told] = field(default_factory=dict)  # for a later daemon
    done: dict[int, tuple[str, int]] = field(default_factory=dict)  # by `once`

    # --- what must be refused ------------------------------------------------------------

    def unknown(self, name: str) -> Refusal:
        return None if name in self.models else UnknownModelError

    def why_not_staged(self, name: str, *, is_new: bool) -> Refusal:
        if is_new:
            is_there = name in self.models or name in self.aside
            refusal: Refusal = ModelExistsError if is_there else None
        else:
            refusal = self.unknown(name) or (LimitError if self._is_full(name) else None)
        return refusal or (BusyError if name in self.staged else None)

    def _is_full(self, name: str) -> bool:
        told = self.models[name]
        kept = told.order[1 - self.keep :] if self.keep > 1 else []
        mapped = self.mapped()
        staying = [n for n, uid in told.held.items() if n in kept or uid in mapped]
        return len(staying) >= self.most_versions

    def why_not_unloaded(self, name: str) -> Refusal:
        return self.unknown(name) or (BusyError if name in self.staged else None)

    def why_not_rolled_back(self, name: str, number: int | None) -> Refusal:
        if name not in self.models:
            return UnknownModelError
        told = self.models[name]
        if number is None:
            if len(told.order) < 2:
                return UnknownVersionError
            number = told.order[-2]
        if number == told.live:
            return IllegalTransitionError
        if number not in told.held:
            return UnknownVersionError
        return DamagedError if number in told.damaged else None

    def why_not_attached(self, name: str | None, pid: int, handle: int | None) -> Refusal:
        told = self.models.get(name) if name is not None else self._by_handle(pid, handle)
        if told is None:
            return UnknownModelError if name is not None else NotAllowedError
        if not told.lets_in(pid):
            return NotAllowedError
        if handle is not None and handle not in told.handles.get(pid, []):
            return BadHandleError
        of_process = [w for w in self.workers.values() if w.told is told and w.pid == pid]
        of_user = [w for w in self.workers.values() if uid_of(w.pid) == uid_of(pid)]
        is_full = len(of_process) >= LEASES_PER_PROCESS or len(of_user) >= self.most_leases
        return LimitError if is_full else None

    def _by_handle(self, pid: int, handle: int | None) -> Told | None:
        found = (t for t in self.models.values() if handle in t.handles.get(pid, []))
        return next(found, None)

    # --- what happens --------------------------------------------------------------------

    def publish(self, name: str, uid: int, *, is_same: bool) -> None:
        number = self.staged.pop(name)
        told = self.models.setdefault(name, Told(name))
        if is_same and told.order:
            told.order.pop()
        told.held[number] = uid
        told.order.append(number)
        told.next_number = number + 1

    def rollback(self, name: str, number: int | None) -> int:
        told = self.models[name]
        number = told.order[-2] if number is None else number
        told.order = [n for n in told.order if n != number] + [number]
        return number

    def unload(self, name: str) -> None:
        told = self.models.pop(name)
        told.is_loaded = False
        self.unloaded.append(told)
        self.awaited -= set(told.held.values())
        self.revoke([w for w in self.workers.values() if w.told is told])

    def allow(self, name: str, pids: set[int], handle: int) -> None:
        for pid in pids:
            handles = self.models[name].handles.setdefault(pid, [])
            handles.append(handle)
            del handles[:-GRANTS_PER_PROCESS]

    def revoked(self, name: str, pids: set[int]) -> set[int]:
        """End these rights; returns whose they were."""
        told = self.models[name]
        if not pids:
            told.allow.clear()
        leases = [w for w in self.workers.values() if w.told is told]
        ended = {pid for pid, handles in told.handles.items() if handles}
        ended |= {worker.pid for worker in leases}
        ended = ended & pids if pids else ended
        for pid in ended:
            told.handles.pop(pid, None)
        self.revoke([worker for worker in leases if worker.pid in ended])
        return ended

    @staticmethod
    def revoke(workers: list[Worker]) -> None:
        for worker in workers:
            worker.is_revoked = True

    def end(self, pids: set[int]) -> None:
        for told in self.models.values():
            told.handles = {pid: had for pid, had in told.handles.items() if pid not in pids}
        self.workers = {lease: w for lease, w in self.workers.items() if w.pid not in pids}
        self.away = [away for away in self.away if away.pid not in pids]

    def die(self, aside: Iterable[str]) -> None:
        """The daemon is killed, and the next one has its place, which cannot serve some models."""
        for worker in self.workers.values():
            others = worker.maps - {self.uid(worker)}
            self.away.append(Away(worker.pid, worker.told.name, [self.uid(worker), *others]))
        self.workers.clear()
        self.staged.clear()
        self.unloaded.clear()
        stored = self.models | self.aside
        self.aside = {name: told for name, told in stored.items() if name in aside}
        self.models = {name: told for name, told in stored.items() if name not in aside}
        self.awaited = {
            uid
            for told in self.models.values()
            for number, uid in told.held.items()
            if number not in told.order[-self.keep :]
        }

    @staticmethod
    def uid(worker: Worker) -> int:
        """Of the version that it runs."""
        return worker.told.held[worker.runs]

    def settle(self) -> set[int]:
        """Let go what nobody may need; returns the uids of that."""
        mapped, gone = self.mapped(), set()
        for told in (*self.models.values(), *self.unloaded):
            kept = told.order[-self.keep :] if told.is_loaded else []
            for number, uid in list(told.held.items()):
                if number not in kept and uid not in mapped and uid not in self.awaited:
                    del told.held[number]
                    told.order = [n for n in told.order if n != number]
                    gone.add(uid)
        return gone

    def mapped(self) -> set[int]:
        return {uid for worker in self.workers.values() for uid in worker.maps}
