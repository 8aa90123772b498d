"""Loads and publishes: from an offered file to a live version, or to a refusal that changed
nothing. One at a time for each model, a few at a time together."""

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import msgspec

from weightd.daemon import damage
from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.adoption import names_of
from weightd.daemon.asker import Asker
from weightd.daemon.counters import Counters
from weightd.daemon.estate import Estate
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Version
from weightd.daemon.room import Room
from weightd.daemon.settings import Settings
from weightd.daemon.sources import is_worth_keeping
from weightd.daemon.staging import Filled, Order, Outcome, Staging, check_same
from weightd.errors import LimitError, StagingError, UnknownModelError, WeightdError
from weightd.ipc import protocol
from weightd.ipc.fields import Engine
from weightd.ipc.status import StagingStatus
from weightd.weights.names import rules_of

log = logging.getLogger("weightd.publisher")

_MAX_STAGERS = 4
_PARKED_EACH = 3  # a segment, a file and its folder


class _Running(msgspec.Struct, eq=False):
    """file: what the version will have been made from; None when it came in memory."""

    staging: Staging
    asker: Asker
    file: OfferedFile | None
    version: Version
    is_dry: bool


class Host(Protocol):
    """What the publisher asks of the server."""

    def perform(self, actions: list[Action]) -> None:
        """Carry out what the catalog decided."""

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None:
        """Tell what happened."""

    @property
    def counters(self) -> Counters:
        """Where what is staged is counted."""

    def outcome(self, name: str, once: int) -> protocol.Live | None:
        """What came of this very request, if it was carried out already."""

    def settled(self, model: str, error: WeightdError | None) -> None:
        """A staging of this model is over; error: why nothing came of it."""


class Publisher:
    """Owns the running stagers.

    What was staged is parked in the fd store before it is live: a daemon that dies between the two
    has published nothing, one that dies after has lost nothing.
    """

    def __init__(self, loop: Loop, estate: Estate, settings: Settings, host: Host) -> None:
        self._loop = loop
        self._catalog = estate.catalog
        self._vault = estate.vault
        self._sources = estate.sources
        self._store = estate.store
        self._settings = settings
        self._room = Room(self._catalog, self._vault, settings, frozenset({0, os.geteuid()}))
        self._host = host
        self._running: dict[str, _Running] = {}

    def apply(self, settings: Settings) -> None:
        """Go by other settings from here on; what is being staged goes by the old ones."""
        self._settings = settings
        self._room.apply(settings)

    @property
    def is_idle(self) -> bool:
        return not self._running

    def load(self, request: protocol.Load, offered: OfferedFile, asker: Asker) -> None:
        """Stage a new model's first version. Owns `offered` from here on, also when it raises."""
        with ExitStack() as on_error:
            on_error.callback(offered.close)
            if self._was_done(request.model, request.once, asker):
                return
            self._check_room(request.model, asker)
            version = self._catalog.stage_new(request.model)
            version.once = request.once
            order = self._order(
                request.model, version, offered, request.engine, request.keep_tensors, asker
            )
            order = msgspec.structs.replace(order, weights_only=request.weights_only)
            self._start(order, version, offered, asker, request.dry_run)
            on_error.pop_all()

    def publish(self, request: protocol.Publish, offered: OfferedFile, asker: Asker) -> None:
        """Stage the next version of a model. Owns `offered` from here on, also when it raises."""
        with ExitStack() as on_error:
            on_error.callback(offered.close)
            if self._was_done(request.model, request.once, asker):
                return
            self._check_room(request.model, asker)
            changes = {
                "names": request.names,
                "is_alone": damage.is_damaged(self._catalog, self._vault, request.model),
            }
            self._stage_next(
                request.model, offered, asker, request.dry_run, on_error, changes, request.once
            )

    def update(self, request: protocol.Update, offered: OfferedFile, asker: Asker) -> None:
        """Stage the next version of a model: the live one with what `offered` brings. Owns it from
        here on, also when it raises."""
        with ExitStack() as on_error:
            on_error.callback(offered.close)
            if self._was_done(request.model, request.once, asker):
                return
            self._check_room(request.model, asker)
            damage.check_whole(self._catalog, self._vault, request.model)
            live = self._catalog.model(request.model).live
            names = rules_of(self._vault.get(live.uid).manifest.stamp)
            file = self._duplicate_of(request.model, live, on_error)
            changes = {"names": names, "is_overlay": True, "update": offered}
            self._stage_next(
                request.model, file, asker, request.dry_run, on_error, changes, request.once
            )

    def _was_done(self, name: str, once: int, asker: Asker) -> bool:
        """Whether this very request was carried out already, by a daemon that could not answer any
        more: then it is answered now."""
        live = self._host.outcome(name, once)
        if live is not None:
            asker.answer(live)
        return live is not None

    def keep_tensors(self, name: str, why: str) -> None:
        """Stage the live version once more, with its original tensors. StagingError when they
        cannot be had."""
        model = self._catalog.model(name)
        base = self._vault.get(model.live.uid).manifest
        if not self._settings.keep_tensors_on_demand:
            raise StagingError("keep_tensors_on_demand is off")
        if "keep_tensors" in base.stamp or base.layout == "tensors":
            raise StagingError("its original tensors are there already")
        if self._sources.get(model.live.uid) is None:
            raise StagingError("its weights did not come from a file that could be read again")
        damage.check_whole(self._catalog, self._vault, name)
        asker = Asker(model.owner_uid, None, lambda _: None, lambda _: None)
        with ExitStack() as on_error:
            self._check_room(name, asker)
            file = self._duplicate_of(name, model.live, on_error)
            changes = {
                "keep_tensors": True,
                "names": rules_of(base.stamp),
                "is_same": True,
                "is_overlay": bool(base.updated),
                "kept_for": why,
            }
            self._stage_next(name, file, asker, False, on_error, changes)

    def _duplicate_of(self, name: str, live: Version, on_error: ExitStack) -> OfferedFile | None:
        """The file that a version was made from, to be the next one's."""
        source = self._sources.get(live.uid)
        if source is None:
            return None
        try:
            file = source.duplicate()
        except OSError as error:  # no descriptor left
            raise StagingError(f"staging {name!r} could not begin: {error}") from error
        on_error.callback(file.close)
        return file

    def _stage_next(  # noqa: PLR0913, PLR0917 - what a publish, an update and a copy need
        self,
        name: str,
        file: OfferedFile | None,
        asker: Asker,
        is_dry: bool,
        on_error: ExitStack,
        changes: Mapping[str, Any],
        once: int = 0,
    ) -> None:
        """Begin a staging that follows the live version. changes: of its order. Empties `on_error`
        when it has begun."""
        base = self._vault.get(self._catalog.model(name).live.uid)
        stamp = base.manifest.stamp
        engine = protocol.convert(stamp.get("asked", ""), Engine)
        version = self._catalog.stage_next(name)
        version.once = once
        order = self._order(name, version, file, engine, "keep_tensors" in stamp, asker)
        self._vault.retain(version.uid, base)
        on_error.callback(self._vault.release, version.uid)
        order = msgspec.structs.replace(
            order,
            base=base,
            kept_for=stamp.get("kept_for", ""),
            weights_only="weights_only" in stamp,
        )
        self._start(msgspec.structs.replace(order, **changes), version, file, asker, is_dry)
        on_error.pop_all()

    def owner_of_staged(self, model: str) -> int | None:
        running = self._running.get(model)
        return running.asker.uid if running else None

    def cancel(self, model: str, why: str) -> None:
        try:
            self._running[model].staging.cancel(why)
        except KeyError:
            raise UnknownModelError(f"nothing is being staged for model {model!r}") from None

    def withdraw(self, ticket: int) -> None:
        """Whoever offered this file is gone: stop what was made of it."""
        for running in self._running.values():
            if running.asker.ticket == ticket:
                running.staging.cancel("whoever asked for it is gone")

    def cancel_all(self, why: str) -> None:
        for running in self._running.values():
            running.staging.cancel(why)

    def status(self) -> tuple[StagingStatus, ...]:
        return tuple(
            StagingStatus(name, r.staging.pid, p.step, p.done, p.total)
            for name, r in self._running.items()
            for p in [r.staging.progress]
        )

    def _check_room(self, model: str, asker: Asker) -> None:
        if len(self._running) >= _MAX_STAGERS:
            raise LimitError(f"{_MAX_STAGERS} models are being staged already; try again later")
        self._room.check(model, asker.uid)
        self._store.check_room(_PARKED_EACH * (len(self._running) + 1))

    def _order(
        self,
        model: str,
        version: Version,
        file: OfferedFile | None,
        engine: Engine,
        keep_tensors: bool,
        asker: Asker,
    ) -> Order:
        return Order(
            model=model,
            version=version.number,
            file_name=file.name if file else "",
            file_fd=file.file_fd if file else None,
            folder_fd=file.folder_fd if file else None,
            engine=engine or self._settings.engine,
            keep_tensors=keep_tensors,
            base=None,
            budget_nbytes=self._room.left(model, asker.uid),
            deadline_s=self._settings.stage_deadline_s,
            answer_limit_s=self._settings.answer_limit_s,
        )

    def _start(
        self, order: Order, version: Version, file: OfferedFile | None, asker: Asker, is_dry: bool
    ) -> None:
        try:
            staging = Staging(
                self._loop, order, asker.on_progress, lambda outcome: self._done(order, outcome)
            )
        except (WeightdError, OSError) as error:  # OSError: the daemon has no descriptor left
            self._catalog.abort(order.model)
            raise StagingError(f"staging {order.model!r} could not begin: {error}") from error
        self._running[order.model] = _Running(staging, asker, file, version, is_dry)
        name = order.update.name if order.update else order.file_name
        log.info("staging %s version %d from %s", order.model, order.version, name)

    def _done(self, order: Order, outcome: Outcome) -> None:
        running = self._running[order.model]
        _close(order.update)
        try:
            filled = self._accept(order, running, outcome)
        except WeightdError as error:
            _close(running.file)
            self._fail(order, running, error)
            return
        self._host.counters.staging_s[order.kind].add(running.staging.age_s)
        if running.is_dry:
            filled.segments[0].close()
            _close(running.file)
            self._fail(order, running, None)
            running.asker.answer(_live(order, filled))
            self._host.settled(order.model, StagingError("that was a dry run"))
            return
        uid = running.version.uid
        file = running.file
        if file and not (order.is_overlay or order.is_same or is_worth_keeping(file)):
            file.close()
            file = None
        self._vault.put(uid, filled)
        if file is not None:
            self._sources.keep(uid, file)
        self._park(order, running, filled, file)

    def _park(
        self, order: Order, running: _Running, filled: Filled, file: OfferedFile | None
    ) -> None:
        """Have it outlive this process, and publish it once that is certain."""
        fds = names_of(filled, file)
        try:
            self._store.park(fds)
        except WeightdError as error:
            self._settled(order, running, filled, error)
        else:
            self._store.settle(list(fds), partial(self._settled, order, running, filled))

    def _settled(
        self, order: Order, running: _Running, filled: Filled, error: WeightdError | None
    ) -> None:
        if error is not None:
            uid = running.version.uid
            self._vault.free(uid)
            self._sources.drop(uid)
            self._fail(order, running, error)
            return
        del self._running[order.model]
        self._release(order, running.version)
        self._room.drop(order.model)
        asker = running.asker
        actions = self._catalog.publish(order.model, asker.uid, is_same=order.is_same)
        if asker.configured:
            self._catalog.models[order.model].configured = asker.configured
        self._host.perform(actions)
        live = _live(order, filled)
        what = "loaded" if order.base is None else "updated" if order.update else "published"
        text = f"{live.nbytes} bytes, {filled.segments[0].nbytes} of them new"
        self._host.emit(what, order.model, order.version, 0, text)
        running.asker.answer(live)
        self._host.settled(order.model, None)

    def _fail(self, order: Order, running: _Running, error: WeightdError | None) -> None:
        """Nothing came of it; error: why that must be told."""
        del self._running[order.model]
        self._room.drop(order.model)
        self._catalog.abort(order.model)
        self._release(order, running.version)
        if error is not None:
            self._host.counters.failed(order.kind, error)
            self._host.emit("failed", order.model, order.version, 0, str(error))
            running.asker.answer(error)
            self._host.settled(order.model, error)

    def _accept(self, order: Order, running: _Running, outcome: Outcome) -> Filled:
        """What was staged, unless it failed, or is too much by now."""
        if isinstance(outcome, WeightdError):
            raise outcome
        new = outcome.segments[0]
        try:
            self._room.claim(order.model, running.asker.uid, new.nbytes)
            damage.check_shared(self._vault, order.model, outcome)
            if order.is_same and not running.is_dry:
                check_same(outcome.manifest, order)
        except WeightdError:
            new.close()
            raise
        return outcome

    def _release(self, order: Order, version: Version) -> None:
        """The staging needs the version that it follows no more, which may be gone by now."""
        nbytes = self._vault.release(version.uid)
        if nbytes and order.base is not None:
            number = order.base.manifest.version
            self._host.emit("freed", order.model, number, 0, f"{nbytes} bytes")


def _live(order: Order, filled: Filled) -> protocol.Live:
    return protocol.Live(order.model, order.version, filled.nbytes, filled.manifest.renamed)


def _close(file: OfferedFile | None) -> None:
    if file is not None:
        file.close()
