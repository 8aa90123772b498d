"""Loads and publishes: from an offered file to a live version, or to a refusal that changed
nothing. One at a time for each model, a few at a time together."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.catalog import Catalog
from weightd.daemon.counters import Counters
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Version
from weightd.daemon.settings import Settings
from weightd.daemon.sources import Sources
from weightd.daemon.staging import Order, Outcome, Staging
from weightd.daemon.vault import Vault
from weightd.errors import (
    InsufficientMemoryError,
    LimitError,
    StagingError,
    UnknownModelError,
    WeightdError,
)
from weightd.ipc import protocol
from weightd.ipc.status import StagingStatus
from weightd.weights.manifest import Manifest
from weightd.weights.names import rules_of

log = logging.getLogger("weightd.publisher")

_MAX_STAGERS = 4

Answer = Callable[[protocol.Live | WeightdError], object]
OnProgress = Callable[[protocol.Progress], object]


@dataclass(frozen=True)
class Asker:
    """Who wants a load or publish: where progress and the one answer go, and the ticket whose
    withdrawal cancels it."""

    uid: int
    ticket: int | None
    on_progress: OnProgress
    answer: Answer


@dataclass(eq=False)
class _Running:
    """file: what the version will have been made from; None when it came in memory."""

    staging: Staging
    asker: Asker
    file: OfferedFile | None
    version: Version
    is_dry: bool
    began_s: float


class Host(Protocol):
    """What the publisher asks of the server."""

    def perform(self, actions: list[Action]) -> None:
        """Carry out what the catalog decided."""

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None:
        """Tell what happened."""

    @property
    def counters(self) -> Counters:
        """Where what is staged is counted."""

    def settled(self, model: str, error: WeightdError | None) -> None:
        """A staging of this model is over; error: why nothing came of it."""


class Publisher:
    """Owns the running stagers, and the files of the versions that are held."""

    def __init__(
        self, loop: Loop, catalog: Catalog, vault: Vault, settings: Settings, host: Host
    ) -> None:
        self._loop = loop
        self._catalog = catalog
        self._vault = vault
        self._settings = settings
        self._host = host
        self._sources = Sources()
        self._running: dict[str, _Running] = {}

    @property
    def is_idle(self) -> bool:
        return not self._running

    def load(self, request: protocol.Load, offered: OfferedFile, asker: Asker) -> None:
        """Stage a new model's first version. Owns `offered` from here on, also when it raises."""
        with ExitStack() as on_error:
            on_error.callback(offered.close)
            self._check_room()
            version = self._catalog.stage_new(request.model)
            order = self._order(
                request.model, version, offered, request.engine, request.keep_tensors
            )
            order = replace(order, weights_only=request.weights_only)
            self._start(order, version, offered, asker, request.dry_run)
            on_error.pop_all()

    def publish(self, request: protocol.Publish, offered: OfferedFile, asker: Asker) -> None:
        """Stage the next version of a model. Owns `offered` from here on, also when it raises."""
        with ExitStack() as on_error:
            on_error.callback(offered.close)
            self._check_room()
            changes = {"names": request.names}
            self._stage_next(request.model, offered, asker, request.dry_run, on_error, changes)

    def update(self, request: protocol.Update, offered: OfferedFile, asker: Asker) -> None:
        """Stage the next version of a model: the live one with what `offered` brings. Owns it from
        here on, also when it raises."""
        with ExitStack() as on_error:
            on_error.callback(offered.close)
            self._check_room()
            live = self._catalog.model(request.model).live
            names = rules_of(self._vault.get(live.uid).manifest.stamp)
            file = self._duplicate_of(request.model, live, on_error)
            changes = {"names": names, "is_overlay": True, "update": offered}
            self._stage_next(request.model, file, asker, request.dry_run, on_error, changes)

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
        asker = Asker(model.owner_uid, None, lambda _: None, lambda _: None)
        with ExitStack() as on_error:
            self._check_room()
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

    def _stage_next(
        self,
        name: str,
        file: OfferedFile | None,
        asker: Asker,
        is_dry: bool,
        on_error: ExitStack,
        changes: Mapping[str, Any],
    ) -> None:
        """Begin a staging that follows the live version. changes: of its order. Empties `on_error`
        when it has begun."""
        base = self._vault.get(self._catalog.model(name).live.uid)
        stamp = base.manifest.stamp
        engine = protocol.convert(stamp.get("asked", ""), protocol.Engine)
        version = self._catalog.stage_next(name)
        order = self._order(name, version, file, engine, "keep_tensors" in stamp)
        self._vault.retain(version.uid, base)
        on_error.callback(self._vault.release, version.uid)
        order = replace(
            order,
            base=base,
            kept_for=stamp.get("kept_for", ""),
            weights_only="weights_only" in stamp,
        )
        self._start(replace(order, **changes), version, file, asker, is_dry)
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

    def freed(self, uid: int) -> None:
        """A version is no more: its file is not needed any longer."""
        self._sources.drop(uid)

    def close(self) -> None:
        self._sources.close()

    def status(self) -> tuple[StagingStatus, ...]:
        return tuple(
            StagingStatus(name, r.staging.pid, p.step, p.done, p.total)
            for name, r in self._running.items()
            for p in [r.staging.progress]
        )

    def _check_room(self) -> None:
        if len(self._running) >= _MAX_STAGERS:
            raise LimitError(f"{_MAX_STAGERS} models are being staged already; try again later")

    def _order(
        self,
        model: str,
        version: Version,
        file: OfferedFile | None,
        engine: protocol.Engine,
        keep_tensors: bool,
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
            budget_nbytes=self._budget_left(),
            deadline_s=self._settings.stage_deadline_s,
            answer_limit_s=self._settings.answer_limit_s,
        )

    def _budget_left(self) -> int | None:
        budget = self._settings.memory_budget
        return None if budget is None else max(0, budget - self._vault.nbytes)

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
        self._running[order.model] = _Running(
            staging, asker, file, version, is_dry, time.monotonic()
        )
        name = order.update.name if order.update else order.file_name
        log.info("staging %s version %d from %s", order.model, order.version, name)

    def _done(self, order: Order, outcome: Outcome) -> None:
        running = self._running.pop(order.model)
        _close(order.update)
        try:
            live = self._settle(order, running, outcome)
        except WeightdError as error:
            _close(running.file)
            self._catalog.abort(order.model)
            self._release(order, running.version)
            self._host.counters.failed(_kind(order), error)
            self._host.emit("failed", order.model, order.version, 0, str(error))
            running.asker.answer(error)
            self._host.settled(order.model, error)
        else:
            took_s = time.monotonic() - running.began_s
            self._host.counters.staging_s[_kind(order)].add(took_s)
            running.asker.answer(live)
            dry = StagingError("that was a dry run") if running.is_dry else None
            self._host.settled(order.model, dry)

    def _settle(self, order: Order, running: _Running, outcome: Outcome) -> protocol.Live:
        """Make what was staged live, unless it failed, was a dry run, or is too much by now."""
        if isinstance(outcome, WeightdError):
            raise outcome
        renamed = outcome.manifest.renamed
        live = protocol.Live(order.model, order.version, outcome.nbytes, renamed)
        new = outcome.segments[0]
        with ExitStack() as unused:
            unused.callback(new.close)
            self._check_budget(order.model, new.nbytes)
            if running.is_dry:
                self._catalog.abort(order.model)
                self._release(order, running.version)
                _close(running.file)
                return live
            if order.is_same:
                _check_same(outcome.manifest, order)
            unused.pop_all()
            self._vault.put(running.version.uid, outcome)
        self._release(order, running.version)
        self._host.perform(
            self._catalog.publish(order.model, running.asker.uid, is_same=order.is_same)
        )
        if running.file is not None:
            was_kept = order.is_overlay or order.is_same
            self._sources.keep(running.version.uid, running.file, was_kept=was_kept)
        what = "loaded" if order.base is None else "updated" if order.update else "published"
        text = f"{live.nbytes} bytes, {new.nbytes} of them new"
        self._host.emit(what, order.model, order.version, 0, text)
        return live

    def _release(self, order: Order, version: Version) -> None:
        """The staging needs the version that it follows no more, which may be gone by now."""
        nbytes = self._vault.release(version.uid)
        if nbytes and order.base is not None:
            number = order.base.manifest.version
            self._host.emit("freed", order.model, number, 0, f"{nbytes} bytes")

    def _check_budget(self, model: str, nbytes: int) -> None:
        """Others may have been staged at the same time, each within what was left then."""
        budget = self._settings.memory_budget
        if budget is not None and self._vault.nbytes + nbytes > budget:
            raise InsufficientMemoryError(
                f"{model!r} takes {nbytes} bytes and the memory budget of the daemon leaves "
                f"{budget - self._vault.nbytes} of {budget}; unload a model, keep fewer versions, "
                "or raise memory_budget"
            )


def _kind(order: Order) -> str:
    if order.base is None:
        return "load"
    return "update" if order.update else "publish"


def _close(file: OfferedFile | None) -> None:
    if file is not None:
        file.close()


def _check_same(manifest: Manifest, order: Order) -> None:
    """StagingError unless the file still gave the weights that the live version has."""
    assert order.base is not None
    live = order.base.manifest
    if manifest.stamp.get("weights", "") != live.stamp.get("weights"):
        raise StagingError(
            f"{order.file_name} has other weights now than when version {live.version} of "
            f"{order.model!r} was made from it"
        )
