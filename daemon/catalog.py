"""Which models and versions the daemon holds, who holds each, and what may happen next.

Pure: no clock, no socket, no memory, no randomness. Every method takes an event, changes the
state, and returns the actions that the server must perform; a refused event changes nothing.

A version is held by the leases that map it and by the daemon itself, which holds the last `keep`
versions that were live (the live one counts). The states are in model.py.
"""

from collections.abc import Iterable, Mapping, Sequence, Set

import msgspec

from weightd.daemon import limits
from weightd.daemon.bounds import Bounds
from weightd.daemon.done import Done, Entry
from weightd.daemon.model import (
    Action,
    Aside,
    Event,
    Free,
    GiveUp,
    Grant,
    Lease,
    Model,
    Notify,
    Version,
    VersionState,
)
from weightd.daemon.policy import Guest, Kind, Policy, Rule
from weightd.daemon.rights import admit, model_of_handle, outlaws
from weightd.errors import (
    BusyError,
    IllegalTransitionError,
    ModelExistsError,
    NotAllowedError,
    UnknownModelError,
    UnknownVersionError,
)
from weightd.ipc.peer import Key


class Catalog:
    """All models, versions and leases."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._kinds: frozenset[Kind] = frozenset()  # that rules ask for, at this revision:
        self._kinds_at = -1
        self._last_lease = 0
        self._staged: dict[str, Version] = {}
        self._awaited: set[int] = set()  # uids of versions whose workers may come back
        self.last_uid = 0
        self.done = Done()
        self.revision = 0  # grows with each change that a successor must know of
        self.models: dict[str, Model] = {}
        self.aside: dict[str, Aside] = {}
        self.leases: dict[int, Lease] = {}

    def apply(self, bounds: Bounds) -> list[Action]:
        """Go by others from here on. Leases stay as they are: see set_policy()."""
        self._bounds = bounds
        self.revision += 1
        return [action for model in self.models.values() for action in self._free_unheld(model)]

    @property
    def settled(self) -> Mapping[str, Policy]:
        return self._bounds.settled

    @property
    def deny(self) -> tuple[Rule, ...]:
        return self._bounds.deny

    # --- models and versions -------------------------------------------------------------

    def model(self, name: str) -> Model:
        try:
            return self.models[name]
        except KeyError:
            if name in self.aside:
                raise UnknownModelError(str(self.aside[name])) from None
            known = ", ".join(sorted(self.models)) or "none"
            raise UnknownModelError(f"no model {name!r}; the daemon holds: {known}") from None

    def owner_of(self, name: str) -> int | None:
        found = self.models.get(name) or self.aside.get(name)
        return found.owner_uid if found else None

    def version(self, name: str, number: int) -> Version:
        model = self.model(name)
        try:
            return model.versions[number]
        except KeyError:
            raise UnknownVersionError(
                f"model {name!r} has no version {number}; it holds "
                f"{', '.join(map(str, sorted(model.versions)))} (live: {model.live.number})"
            ) from None

    def stage_new(self, name: str) -> Version:
        """Begin to load a model that is not there yet."""
        if name in self.aside:
            raise ModelExistsError(str(self.aside[name]))
        if name in self.models:
            raise ModelExistsError(
                f"model {name!r} is loaded already; `weightd publish {name} FILE` gives it new "
                f"weights, `weightd unload {name}` makes room for another"
            )
        return self._stage(name, 1)

    def stage_next(self, name: str) -> Version:
        """Begin to stage the next version of a model. Its number is used up only by publish."""
        model = self.model(name)
        limits.check_versions(
            model, self.leases, keep=self._bounds.keep, most=self._bounds.versions_held
        )
        return self._stage(name, model.next_number)

    def _stage(self, name: str, number: int) -> Version:
        if name in self._staged:
            raise BusyError(
                f"model {name!r} is being staged by another request; wait for it "
                f"(`weightd status`) or stop it (`weightd cancel {name}`)"
            )
        self.last_uid += 1
        self._staged[name] = Version(self.last_uid, number)
        return self._staged[name]

    def abort(self, name: str) -> None:
        """Forget a staged version. Nothing else changes."""
        self._staged.pop(name).apply(Event.ABORT)

    def publish(self, name: str, owner_uid: int, *, is_same: bool = False) -> list[Action]:
        """Make the staged version live. `owner_uid` matters for a new model only. is_same: it has
        the weights of the live one, which nobody will want to roll back to."""
        self.revision += 1
        staged = self._staged.pop(name)
        model = self.models.setdefault(name, Model(name, owner_uid))
        model.versions[staged.number] = staged
        model.next_number = staged.number + 1
        self.done.note(staged.once, name, staged.number)
        return self._make_live(model, staged, Event.PUBLISH, is_kept=not is_same)

    def rollback(self, name: str, number: int | None, once: int = 0) -> list[Action]:
        """Make a held version live again; None: the one that was live before this one."""
        model = self.model(name)
        if number is None:
            number = self._previously_live(model)
        if number == model.live.number:
            raise IllegalTransitionError(f"version {number} of {name!r} is live already")
        version = self.version(name, number)
        version.check_whole(name)
        self.revision += 1
        self.done.note(once, name, number)
        return self._make_live(model, version, Event.ROLLBACK)

    def _previously_live(self, model: Model) -> int:
        for number in reversed(model.was_live[:-1]):
            if number in model.versions:
                return number
        raise UnknownVersionError(
            f"model {model.name!r} has no version to roll back to: only {model.live.number} is "
            f"held (the daemon keeps {self._bounds.keep})"
        )

    def _make_live(
        self, model: Model, version: Version, event: Event, *, is_kept: bool = True
    ) -> list[Action]:
        """is_kept: whether the version that was live counts among those held for rollback."""
        previous = model.live if model.was_live else None
        version.apply(event)
        if previous is not None:
            previous.apply(Event.REPLACE)
            if not is_kept:
                model.was_live.remove(previous.number)
        model.was_live = [n for n in model.was_live if n != version.number] + [version.number]
        notices: list[Action] = []
        for lease in self._leases_of(model):
            if not lease.is_revoked:
                lease.lag = "" if lease.version == version.number else "notified"
                notices.append(Notify(lease.id, version.number))
        return notices + self._free_unheld(model)

    def unload(self, name: str) -> list[Action]:
        """Forget a model. Leases keep what they map."""
        if name in self.aside:
            self.revision += 1
            return [GiveUp(self.aside.pop(name).stored)]
        model = self.model(name)
        if name in self._staged:
            raise BusyError(
                f"model {name!r} is being staged; stop that first (`weightd cancel {name}`)"
            )
        self.revision += 1
        del self.models[name]
        model.is_loaded = False
        self._awaited -= {version.uid for version in model.versions.values()}
        model.grants.clear()
        model.live.apply(Event.REPLACE)
        told = [lease.revoke("the model was unloaded") for lease in self._leases_of(model)]
        return [*told, *self._free_unheld(model)]

    def _free_unheld(self, model: Model) -> list[Action]:
        kept = model.was_live[-self._bounds.keep :] if model.is_loaded else []
        freed: list[Action] = []
        for version in list(model.versions.values()):
            is_held = version.number in kept or version.leases or version.uid in self._awaited
            if version.state is VersionState.HELD and not is_held:
                version.apply(Event.LAST_HOLD_ENDED)
                del model.versions[version.number]
                if version.number in model.was_live:
                    model.was_live.remove(version.number)
                freed.append(Free(model.name, version.number, version.uid))
        self.revision += bool(freed)
        return freed

    # --- what an earlier daemon left -----------------------------------------------------

    def adopt(
        self,
        models: list[Model],
        last_uid: int,
        aside: Iterable[Aside] = (),
        done: Iterable[Entry] = (),
    ) -> None:
        """Take over models, which are there from before. Until everybody_returned() versions that
        only workers held stay: these have to come first and say so."""
        self.models = {model.name: model for model in models}
        self.aside = {each.name: each for each in aside}
        self.done = Done(done)
        self.last_uid = last_uid
        self.revision += 1
        self._awaited = {
            version.uid
            for model in models
            for version in model.versions.values()
            if version.number not in model.was_live[-self._bounds.keep :]
        }

    def everybody_returned(self) -> list[Action]:
        self._awaited.clear()
        return [action for model in self.models.values() for action in self._free_unheld(model)]

    def resume(self, lease_id: int, held: Sequence[int]) -> list[int]:
        """This lease is of a worker that has mapped versions already, and predicts on the first one
        of `held`, which are uids. Returns the numbers of those that it holds now; none: it must
        begin anew."""
        lease = self.leases[lease_id]
        by_uid = {version.uid: version for version in lease.model.versions.values()}
        known = [by_uid[uid] for uid in held if uid in by_uid]
        if not known or known[0].uid != held[0]:
            return []
        lease.model.live.leases.discard(lease_id)
        for version in known:
            version.leases.add(lease_id)
        lease.version = known[0].number
        lease.lag = "" if lease.version == lease.model.live.number else "notified"
        return [version.number for version in known]

    # --- who may attach ------------------------------------------------------------------

    def allow(self, name: str, processes: dict[Key, int], handle: int) -> None:
        """Whitelist living processes; `handle` is the random number that names this grant. Of the
        grants that a process has already the newest stay, up to a limit."""
        limits.add_grant(self.model(name), Grant(handle, dict(processes)))
        self.revision += 1

    def revoke(self, name: str, pids: set[int]) -> tuple[set[int], list[Action]]:
        """End the right of these processes (none named: all, and the rules that were given to the
        model to let anybody in). Returns their PIDs and actions."""
        model = self.model(name)
        if not pids and model.policy.allow:
            model.policy = msgspec.structs.replace(model.policy, allow=())
            self.revision += 1
        ended = {pid for pid in model.allowed_pids() if not pids or pid in pids}
        ended |= {lease.pid for lease in self._leases_of(model) if not pids or lease.pid in pids}
        self.revision += model.strike(lambda _, pid: pid in ended)
        actions: list[Action] = [
            lease.revoke("the right to this model was revoked")
            for lease in self._leases_of(model)
            if lease.pid in ended
        ]
        return ended, actions

    def set_policy(
        self, name: str, policy: Policy, guests: Mapping[int, Guest]
    ) -> tuple[set[int], list[Action]]:
        """Give a model other rules, beside those of the settings. Whom nothing lets in any more
        loses the right, as by revoke. guests: who holds each lease of the model. Returns PIDs and
        actions."""
        model = self.model(name)
        model.policy = policy
        self.revision += 1
        lost = outlaws(model, self.rules_of(model), self._leases_of(model), guests)
        reason = "the rules of the model let it in no more"
        actions: list[Action] = [lease.revoke(reason) for lease in lost]
        return {lease.pid for lease in lost}, actions

    def rules_of(self, model: Model) -> Policy:
        """Those of the settings, for all models and for this one, and those given to it since."""
        base = self.settled.get(model.name, Policy())
        return Policy(
            (*base.allow, *model.policy.allow), (*self.deny, *base.deny, *model.policy.deny)
        )

    def asked_kinds(self) -> frozenset[Kind]:
        """What some rule, of whichever model, needs to know of a process that attaches."""
        if self._kinds_at != self.revision:
            kinds = (self.rules_of(model).kinds for model in self.models.values())
            self._kinds, self._kinds_at = frozenset().union(*kinds), self.revision
        return self._kinds

    def processes_ended(self, keys: Set[Key]) -> list[Action]:
        """These are gone: their entries and leases end. A number may come again, a key does not."""
        for model in self.models.values():
            self.revision += model.strike(lambda entry, _: entry in keys)
        actions: list[Action] = []
        for lease in [lease for lease in self.leases.values() if lease.key in keys]:
            actions += self.detach(lease.id)
        return actions

    # --- leases --------------------------------------------------------------------------

    def attach(self, name: str | None, key: Key, guest: Guest, handle: int | None) -> Lease:
        """Begin a lease of the live version. name: None for the model that the handle is for."""
        if name is None:
            model = model_of_handle(self.models.values(), key, handle)
        else:
            model = self.model(name)
        pid, admission = admit(model, self.rules_of(model), key, guest, handle)
        limits.check_leases(
            self.leases.values(), model, key, guest.uid, most=self._bounds.leases_per_uid
        )
        self._last_lease += 1
        number = model.live.number
        lease = Lease(self._last_lease, model, key, pid, guest.uid, number, admission.rule)
        self.leases[lease.id] = lease
        model.live.leases.add(lease.id)
        return lease

    def pull(self, lease_id: int) -> Version:
        """The live version, now held by this lease too."""
        lease = self.leases[lease_id]
        if lease.is_revoked:
            raise NotAllowedError(
                f"process {lease.pid} gets no new version of {lease.model.name!r}: its right was "
                "revoked, or the model unloaded; what it has mapped stays readable"
            )
        live = lease.model.live
        live.leases.add(lease_id)
        if live.number != lease.version:
            lease.lag = "switching"
        return live

    def switched(self, lease_id: int, number: int, pause_us: float) -> None:
        """The worker's predictions run on this version now."""
        self.held_by(lease_id, number)
        lease = self.leases[lease_id]
        lease.version = number
        lease.switches += 1
        lease.last_pause_us = pause_us
        if not lease.is_revoked:
            lease.lag = "" if lease.model.live.number == number else "notified"

    def not_switched(self, lease_id: int, number: int, reason: str) -> None:
        """The worker stays on what it has."""
        self.held_by(lease_id, number)
        lease = self.leases[lease_id]
        lease.lag = f"stays on {lease.version}: {reason}"

    def runs_on(self, lease_id: int, engine: str, note: str) -> None:
        """The worker says which engine it uses, and why it is not the version's."""
        lease = self.leases[lease_id]
        lease.engine, lease.note = (engine, note) if note else ("", "")

    def released(self, lease_id: int, number: int) -> list[Action]:
        """The worker maps this version no more."""
        self.held_by(lease_id, number).leases.discard(lease_id)
        return self._free_unheld(self.leases[lease_id].model)

    def detach(self, lease_id: int) -> list[Action]:
        """The lease ended: its connection or its process did."""
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return []
        for version in lease.model.versions.values():
            version.leases.discard(lease_id)
        return self._free_unheld(lease.model)

    def held_by(self, lease_id: int, number: int) -> Version:
        """The version of this number, which the lease must hold."""
        lease = self.leases[lease_id]
        version = lease.model.versions.get(number)
        if version is None or lease.id not in version.leases:
            raise UnknownVersionError(f"this lease does not hold version {number}")
        return version

    def _leases_of(self, model: Model) -> list[Lease]:
        return [lease for lease in self.leases.values() if lease.model is model]
