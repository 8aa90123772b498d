"""The daemon: puts the planes, the catalog and the memory together, and performs actions.

I/O without rules: what may happen is decided in catalog.py and roles.py. It runs in one thread,
that of run(); stop() may be called from any.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

from weightd._version import __version__
from weightd.daemon import logs
from weightd.daemon.admin_plane import AdminPlane
from weightd.daemon.admission import Admission
from weightd.daemon.attach_plane import AttachPlane
from weightd.daemon.audit import Audit
from weightd.daemon.catalog import Catalog
from weightd.daemon.configured import Configured
from weightd.daemon.control_plane import ControlPlane
from weightd.daemon.counters import Counters
from weightd.daemon.desk import Desk
from weightd.daemon.estate import Estate
from weightd.daemon.fdstore import FdStore
from weightd.daemon.fitting import Fitting
from weightd.daemon.limits import Requests
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Free, GiveUp, Notify, TellRevoked
from weightd.daemon.policy import Guest, Kind, Rule
from weightd.daemon.processes import ProcessTable
from weightd.daemon.publisher import Publisher
from weightd.daemon.reload import Reload
from weightd.daemon.report import model_status, one_line_of, outcome_of, worker_status
from weightd.daemon.rights import hindrances, wanted
from weightd.daemon.scrubbing import Scrubbing
from weightd.daemon.settings import Settings, access_of, bounds_of
from weightd.daemon.sources import Sources, file_name, folder_name
from weightd.daemon.succession import Succession
from weightd.daemon.vault import Vault, segment_name
from weightd.daemon.vitals import Vitals
from weightd.errors import BusyError, SettingsError, StoreError, WeightdError
from weightd.ipc import protocol, unit
from weightd.ipc.manager import Given, Manager
from weightd.ipc.peer import Key, identity_kind
from weightd.ipc.runtime import RuntimeFolder

log = logging.getLogger("weightd.daemon")

_OFTEN = frozenset({"attached", "detached", "switched"})
_DRAIN_S = 10.0
_RETURN_S = 3.0  # how long what only workers hold waits for them after the daemon's own absence


class Server:
    """One daemon on one runtime folder, whose lock the caller holds. Owns everything else."""

    def __init__(  # noqa: PLR0915 - it puts everything together
        self, folder: RuntimeFolder, settings: Settings, given: Given | None = None
    ) -> None:
        """given: what the service manager gave this process, with what an earlier daemon left."""
        given = given or Given()
        self.is_stopping = False
        self.is_to_be_restarted = False
        self.counters = Counters()
        self._folder = folder
        self._settings = settings
        self._identity = identity_kind()
        self._access = access_of(settings)
        self.roles = self._access.roles
        self._started_s = time.time()
        self._loop = Loop()
        self._audit = Audit(self._loop)
        self._requests = Requests(settings.requests_per_s_per_uid)
        self._catalog = Catalog(bounds_of(settings, self._access))
        self._manager = Manager(given.notify)
        self._store = FdStore(self._loop, given, self._manager)
        self._vault = Vault(lambda inode: self._store.drop([segment_name(inode)]))
        self._sources = Sources(lambda key: self._store.drop([file_name(key), folder_name(key)]))
        self._processes = ProcessTable(self._loop, self._process_ended)
        self._ended: set[Key] = set()  # in this turn of the loop
        self._is_tidied = True
        estate = Estate(self._store, self._catalog, self._vault, self._sources, self._processes)
        self._publisher = Publisher(self._loop, estate, settings, self)
        self._succession = Succession(estate, given.stored, self.counters)
        lose = self._store.lose
        self._vitals = Vitals(self._loop, self._manager, given.watchdog_s, self._line, lose)
        self._scrubbing = Scrubbing(self._loop, self._catalog, self._vault, settings, self)
        self._fitting = Fitting(self._catalog, self._publisher, self._tell)
        self._desk = Desk(
            self._loop,
            self,
            self._catalog,
            self._vault,
            self._processes,
            self._fitting,
            self._audit,
            self._requests,
        )
        self._admission = Admission(self, self._catalog, self._processes)
        self._configured = Configured(self, self._catalog, self._publisher)
        self._configured.check(settings.paths)
        self._open_planes(given)
        self._reloading = Reload(
            self,
            self._catalog,
            self._publisher,
            self._scrubbing,
            self._requests,
            self._attach_plane,
            self._admission,
            self._configured,
        )

    def _open_planes(self, given: Given) -> None:
        settings = self._settings
        gid = self._access.control_gid
        self._folder.create(settings.folder_mode)
        self._attach_plane = AttachPlane(
            self._loop,
            self._folder,
            self._desk,
            self._audit,
            self.counters,
            mode=0o666 if settings.attach_public else 0o600,
            read_in_threads=settings.read_in_threads,
            hello_deadline_s=settings.hello_deadline_s,
            given=given.socket_at(self._folder.attach),
        )
        self._admin_plane = AdminPlane(
            self._loop,
            self._folder,
            self._publisher.withdraw,
            self._audit,
            self.counters,
            gid=gid,
            given=given.socket_at(self._folder.admin),
        )
        self._control_plane = ControlPlane(
            self._loop,
            self._folder,
            self,
            self._catalog,
            self._processes,
            self._admin_plane,
            self._publisher,
            self._admission,
            self._scrubbing,
            self._audit,
            self._requests,
            gid=gid,
            given=given.socket_at,
        )
        for path, sock in given.sockets.items():
            log.warning("the socket at %s, which the service manager gave, is not for us", path)
            sock.close()

    # --- life ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stop(), then close everything."""
        log.info(
            "ready at %s (processes told apart by %s; workers read %s)",
            self._folder.path,
            self._identity,
            "in threads" if self._attach_plane.reads_in_threads else "in the loop",
        )
        for note in self._notes():
            log.warning("%s", note)
        self.emit("started", "", 0, os.getpid(), self._succession.account)
        for aside in self._catalog.aside.values():
            self.emit("set-aside", aside.name, 0, 0, aside.reason)
        self._scrubbing.start()
        self._configured.follow(self._settings.paths)
        self._loop.call_later(_RETURN_S, lambda: self.perform(self._catalog.everybody_returned()))
        self._vitals.begin()
        try:
            self._loop.run()
        finally:
            self._close()

    def stop(self, reason: str) -> None:
        """Drain and end: refuse new work, stop stagers, tell the workers. From any thread, and from
        a signal handler."""
        self._loop.call_soon(partial(self._drain, reason))

    def restart(self, reason: str, answer: Callable[[protocol.Done | WeightdError], None]) -> None:
        """End, to be started again by the service manager, by another weightd perhaps: what is in
        the fd store is the next one's. Refused with StoreError when nobody would."""
        if not self._store.kind:
            raise StoreError(
                "nothing would keep the weights while the daemon is replaced: it runs neither under"
                " systemd with an fd store nor under a keeper (`weightd keeper`)"
            )
        if not self._publisher.is_idle:
            raise BusyError("a model is being staged; wait for it, or stop it (`weightd cancel`)")
        self._store.settle([], partial(self._restart, reason, answer))

    def _restart(
        self,
        reason: str,
        answer: Callable[[protocol.Done | WeightdError], None],
        error: StoreError | None,
    ) -> None:
        if error is not None:  # who kept the weights is gone
            answer(error)
            return
        answer(protocol.Done())
        self.is_to_be_restarted = True
        self.stop(reason)

    def reload(self, read: Callable[[], Settings]) -> None:
        """Read the settings again and apply what has changed. From any thread, and from a signal
        handler."""
        self._loop.call_soon(partial(self._reload, read))

    def _reload(self, read: Callable[[], Settings]) -> None:
        if self.is_stopping:
            return
        self._manager.reloading()
        try:
            settings = read()
            access = access_of(settings)
        except SettingsError as error:
            log.error("the settings stay as they were: %s", error)
        else:
            self._reloading.apply(self._settings, settings, access)
            self._settings, self._access, self.roles = settings, access, access.roles
            log.info("the settings were read again")
        self._vitals.ready()

    def _drain(self, reason: str) -> None:
        if self.is_stopping:
            return
        log.info("stopping: %s", reason)
        self.is_stopping = True
        self._vitals.stopping()
        self._control_plane.emit(protocol.Event("stopping", "", 0, 0, reason))
        self._configured.stop()
        self._publisher.cancel_all("the daemon is stopping")
        self._scrubbing.stop()
        self._attach_plane.say_goodbye(f"the daemon stops ({reason})")
        self._stop_when_idle(time.monotonic() + _DRAIN_S)

    def _stop_when_idle(self, deadline_s: float) -> None:
        if self._publisher.is_idle and self._scrubbing.is_idle:
            self._loop.stop()
        elif time.monotonic() > deadline_s:  # one in an uninterruptible read, on a dead NFS say
            log.error("a stager cannot be ended; stopping without waiting for it")
            self._loop.stop()
        else:
            self._loop.call_later(0.01, partial(self._stop_when_idle, deadline_s))

    def _close(self) -> None:
        self._attach_plane.close()
        self._admin_plane.close()
        self._control_plane.close()
        self._processes.close()
        self._audit.close()
        self._sources.close()
        self._vault.close()
        self._succession.close()
        self._store.close()
        self._manager.close()
        self._loop.close()

    def let_go_in_child(self) -> None:
        """In a forked child of the process that serves: close the copies of the workers'
        connections, of the socket that they come to, and of the memory. Nothing is told to the
        loop, whose selector is the parent's too."""
        self._attach_plane.let_go_in_child()
        self._admin_plane.let_go_in_child()
        self._vault.close()

    @property
    def incarnation(self) -> str:
        return self._succession.incarnation

    def _line(self) -> str:
        return one_line_of(self._catalog, self._vault)

    # --- actions -------------------------------------------------------------------------

    def perform(self, actions: list[Action]) -> None:
        """Carry out what the catalog decided. It is written down first: a successor of a daemon
        that dies in here finds what others may have heard of."""
        self._succession.commit()
        for action in actions:
            match action:
                case Notify(lease, version):
                    self._attach_plane.tell(lease, protocol.Notice(version))
                case TellRevoked(lease, reason):
                    self._attach_plane.tell(lease, protocol.Revocation(reason))
                case Free(model, version, uid):
                    nbytes = self._vault.free(uid)
                    self._sources.drop(uid)
                    self._scrubbing.freed(uid)
                    self.emit("freed", model, version, 0, f"{nbytes} bytes")
                case GiveUp(stored):
                    self._store.drop(stored)
                case _:
                    assert_never(action)
        if self._is_tidied:
            self._is_tidied = False
            self._loop.call_next(self._tidy)

    def _tidy(self) -> None:
        """Hold no process without a right and a lease. Once in a turn: it takes time."""
        self._is_tidied = True
        self._processes.keep_only(wanted(self._catalog.models.values(), self._catalog.leases))

    def check_state_room(self) -> None:
        """LimitError when nothing may be added to what a successor must know."""
        self._succession.check_room()

    def _tell(self, lease: int, message: protocol.Unhelped) -> None:
        self._attach_plane.tell(lease, message)

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None:
        """Tell the log and whoever listens to events. What workers do comes by the thousand: the
        record has it (audit.py), as far as it is not too much, and the log at DEBUG."""
        self.counters.events[what] += 1
        event = protocol.Event(what, model, version, pid, text)
        level = logging.DEBUG if what in _OFTEN else logging.INFO
        if log.isEnabledFor(level):
            numbers = {"version": version or None, "pid": pid or None}
            fields = logs.fields(event=what, model=model, **numbers)
            log.log(level, "%s", event.sentence, extra=fields)
        self._control_plane.emit(event)

    def settled(self, model: str, error: WeightdError | None) -> None:
        if not self.is_stopping:
            self._fitting.settled(model, error)

    def _process_ended(self, key: Key) -> None:
        """Those of a turn are struck off together, and written down once: nobody was promised
        anything, and a successor finds out for itself who lives."""
        if not self._ended:
            self._loop.call_next(self._strike_off)
        self._ended.add(key)

    def _strike_off(self) -> None:
        ended, self._ended = self._ended, set()
        self._attach_plane.end_leases_of(ended)
        self.perform(self._catalog.processes_ended(ended))

    def live(self, name: str) -> protocol.Live:
        """The live version of a model, as a reply."""
        version = self._catalog.model(name).live
        return protocol.Live(name, version.number, self._vault.get(version.uid).nbytes)

    def outcome(self, name: str, once: int) -> protocol.Live | None:
        """What came of this very request, if it was carried out already."""
        return outcome_of(self._catalog, self._vault, name, once)

    def guests(self, model: str, kinds: frozenset[Kind]) -> dict[int, Guest]:
        return self._desk.guests(model, kinds)

    def notes_on(self, rules: Sequence[Rule]) -> tuple[str, ...]:
        """What keeps those whom these rules let in from attaching all the same."""
        return hindrances(
            rules,
            is_public=self._settings.attach_public,
            daemon_uid=os.geteuid(),
            unit_fault=unit.blindness() if any(rule.kind == "unit" for rule in rules) else "",
        )

    def _notes(self) -> tuple[str, ...]:
        policies = [self._catalog.rules_of(m) for m in self._catalog.models.values()]
        policies += self._catalog.settled.values()
        allowing = [rule for policy in policies for rule in policy.allow]
        notes = self.notes_on(tuple(dict.fromkeys(allowing)))
        aside = tuple(map(str, self._catalog.aside.values()))
        fault = self._store.fault
        return (*aside, *((f"the fd store may be gone: {fault}",) if fault else ()), *notes)

    def status(self) -> protocol.DaemonStatus:
        leases = self._catalog.leases.values()
        return protocol.DaemonStatus(
            pid=os.getpid(),
            incarnation=self.incarnation,
            version=__version__,
            uptime_s=time.time() - self._started_s,
            runtime_dir=str(self._folder.path),
            identity=self._identity,
            held_nbytes=self._vault.nbytes,
            budget_nbytes=self._settings.memory_budget,
            models={
                name: model_status(m, self._catalog.rules_of(m), self._vault)
                for name, m in self._catalog.models.items()
            },
            workers=tuple(worker_status(lease, self._desk.since_s[lease.id]) for lease in leases),
            staging=self._publisher.status(),
            deny=tuple(map(str, self._catalog.deny)),
            notes=self._notes(),
            store=self._store.holder,
            damaged_versions=self._scrubbing.damaged_versions,
            scrubbed_nbytes=self._scrubbing.scrubbed_nbytes,
        )
