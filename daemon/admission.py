"""Carries out allow, deny and revoke: whom a model lets in, and what becomes of those that it lets
in no more. Rules are the catalog's and policy.py's.
"""

import os
import signal
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import Protocol

import msgspec

from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Action, Lease
from weightd.daemon.policy import Guest, Kind, Policy, Rule
from weightd.daemon.processes import ProcessTable
from weightd.daemon.rights import pardoned, standing
from weightd.errors import BadRequestError, RefusedError, SettingsError
from weightd.ipc import protocol
from weightd.ipc.peer import Key, Process


class House(Protocol):
    """What admission asks of the server."""

    def perform(self, actions: list[Action]) -> None: ...

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None: ...

    def guests(self, model: str, kinds: frozenset[Kind]) -> dict[int, Guest]: ...

    def notes_on(self, rules: Sequence[Rule]) -> tuple[str, ...]: ...


class Admission:
    """Changes who may attach."""

    def __init__(self, house: House, catalog: Catalog, processes: ProcessTable) -> None:
        self._house = house
        self._catalog = catalog
        self._processes = processes

    def allow(self, request: protocol.Allow, asker: int) -> protocol.Allowed:
        model = self._catalog.model(request.model)
        rules = _parsed(request.rules)
        if not request.pids and not rules:
            raise RefusedError("allow needs at least one PID or rule")
        policy = model.policy.allowing(rules)
        handle = self._whitelist(request) if request.pids else None
        if rules:
            self._set_policy(request.model, policy)
        self._pardon(request.model, request.pids, rules)
        self._house.emit("allowed", request.model, 0, asker, _listed(request.pids, rules))
        return protocol.Allowed(handle, self._notes(request.model, rules))

    def deny(self, request: protocol.Deny, asker: int) -> protocol.Revoked:
        model = self._catalog.model(request.model)
        rules = _parsed(request.rules)
        if not rules:
            raise RefusedError("deny needs at least one rule")
        if request.lift:
            self._check_not_settled(request.model, "deny", rules)
            rules = _those_in(rules, model.policy.deny)
            policy, what = model.policy.not_denying(rules), "denial-lifted"
        else:
            policy, what = model.policy.denying(rules), "denied"
        before = self._holders(request.model)
        pids, actions = self._set_policy(request.model, policy)
        taken = tuple(map(str, rules)) if request.lift else ()
        revoked = self._end(before, pids, actions, kill=request.kill, rules=taken)
        if request.lift:
            self._pardon(request.model, (), rules)
        if rules:
            self._house.emit(what, request.model, 0, asker, _listed((), rules))
        return revoked

    def revoke(self, request: protocol.Revoke, asker: int) -> protocol.Revoked:
        model = self._catalog.model(request.model)
        rules = _parsed(request.rules)
        self._check_not_settled(request.model, "allow", rules)
        before = self._holders(request.model)
        is_all = not request.pids and not rules
        taken = model.policy.allow if is_all else _those_in(rules, model.policy.allow)
        pids: set[int] = set()
        actions: list[Action] = []
        if request.pids or is_all:
            pids, actions = self._catalog.revoke(request.model, set(request.pids))
        if rules:
            more = self._set_policy(request.model, model.policy.not_allowing(rules))
            pids |= more[0]
            actions += more[1]
        left = self._standing(request.model, before, pids, is_all=is_all)
        texts = tuple(map(str, taken))
        revoked = self._end(before, pids, actions, kill=request.kill, rules=texts)
        if pids or taken:
            self._house.emit("revoked", request.model, 0, asker, _listed(sorted(pids), taken))
        return msgspec.structs.replace(revoked, standing=tuple(map(str, left)))

    def reconsider(self) -> None:
        """The rules of the settings have changed: whom nothing lets in any more loses the right."""
        for name, model in list(self._catalog.models.items()):
            _, actions = self._set_policy(name, model.policy)
            self._house.perform(actions)

    def _whitelist(self, request: protocol.Allow) -> int:
        with ExitStack() as on_error:
            found = [on_error.enter_context(self._processes.open(pid)) for pid in request.pids]
            on_error.pop_all()
        handle = int.from_bytes(os.urandom(8))
        self._catalog.allow(request.model, {p.key: p.pid for p in found}, handle)
        for process in found:
            self._processes.watch(process)
        return handle

    def _set_policy(self, name: str, policy: Policy) -> tuple[set[int], list[Action]]:
        kinds = policy.kinds | self._catalog.rules_of(self._catalog.model(name)).kinds
        return self._catalog.set_policy(name, policy, self._house.guests(name, kinds))

    def _pardon(self, name: str, pids: Collection[int], rules: Sequence[Rule]) -> None:
        """Workers that had lost the right, and have it again by these, follow again."""
        model = self._catalog.model(name)
        policy = self._catalog.rules_of(model)
        guests = self._house.guests(name, policy.kinds | Policy(tuple(rules)).kinds)
        leases = self._catalog.leases.values()
        self._house.perform(pardoned(model, policy, leases, guests, pids=pids, among=rules))

    def _standing(
        self, name: str, leases: Iterable[Lease], pids: set[int], *, is_all: bool
    ) -> tuple[Rule, ...]:
        """What lets in those all the same whose right was revoked. is_all: everybody's was."""
        model = self._catalog.model(name)
        policy = self._catalog.rules_of(model)
        if is_all:
            return tuple(dict.fromkeys(policy.allow))
        guests = self._house.guests(name, policy.kinds)
        return standing(model, policy, [x for x in leases if x.pid in pids], guests)

    def _notes(self, name: str, rules: Sequence[Rule]) -> tuple[str, ...]:
        denied = _those_in(rules, self._catalog.rules_of(self._catalog.model(name)).deny)
        notes = [f"{rule} is denied, which counts for more" for rule in denied]
        return (*notes, *self._house.notes_on(rules))

    def _check_not_settled(self, name: str, kind: str, rules: Sequence[Rule]) -> None:
        settled = self._catalog.settled.get(name, Policy())
        fixed = settled.allow if kind == "allow" else (*settled.deny, *self._catalog.deny)
        for rule in _those_in(rules, fixed):
            raise RefusedError(f"{kind} {rule} stands in the settings; change it there")

    def _holders(self, name: str) -> list[Lease]:
        return [x for x in self._catalog.leases.values() if x.model.name == name]

    def _end(
        self,
        leases: Iterable[Lease],
        pids: set[int],
        actions: list[Action],
        *,
        kill: bool,
        rules: tuple[str, ...],
    ) -> protocol.Revoked:
        """Tell these processes, or kill them, that their right has ended."""
        holders: dict[int, Key] = {lease.pid: lease.key for lease in leases if lease.pid in pids}
        killed, not_killed = [], []
        for pid, key in holders.items() if kill else ():
            fault = _kill(self._processes.get(key))
            if fault is None:
                killed.append(pid)
            else:
                not_killed.append(f"{pid}: {fault}")
        self._house.perform(actions)  # after the kill: it may let the pidfds go
        still = [pid for pid in holders if pid not in killed]
        return protocol.Revoked(
            tuple(sorted(pids)), tuple(still), tuple(killed), tuple(not_killed), rules
        )


def _parsed(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Rules in numbers: names are the client's to look up."""
    try:
        return tuple(dict.fromkeys(Rule.parse(text) for text in texts))
    except SettingsError as error:
        raise BadRequestError(str(error)) from error


def _those_in(rules: Iterable[Rule], others: Iterable[Rule]) -> tuple[Rule, ...]:
    known = set(others)
    return tuple(rule for rule in rules if rule in known)


def _listed(pids: Sequence[int], rules: Sequence[Rule]) -> str:
    return " ".join(
        (*(["pids " + ", ".join(map(str, pids))] if pids or not rules else []), *map(str, rules))
    )


def _kill(process: Process | None) -> str | None:
    """Kill by pidfd; the reason when it cannot be done."""
    if process is None:
        return "it has ended"
    try:
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    except OSError as error:
        return error.strerror or str(error)
    return None
