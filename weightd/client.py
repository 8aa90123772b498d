"""The control requests of a daemon, as methods."""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from weightd.errors import (
    BrokenPeerError,
    DaemonTimeoutError,
    UnknownModelError,
    WeightdError,
)
from weightd.ipc import protocol
from weightd.ipc.counts import Counts
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.status import VersionCheck
from weightd.ipc.words import counted
from weightd.link import RETRY_S, Link, OnProgress

if TYPE_CHECKING:
    from weightd.ipc.fields import Engine
    from weightd.weights.arrays import Array

OnRenamed = Callable[[Mapping[str, str]], object]


_GAP = "the daemon was away, or events came too fast: what happened until now is not told"


class Client:
    """Speaks to one daemon on its control plane: for the user who runs it, for root, and for owners
    of models. Workers need none: weightd.attach() and weightd.current_pid() use another socket.

    runtime_dir: the daemon's folder, None for the default. timeout_s: how long the daemon may be
    silent; a load that reports progress may take longer. Safe from several threads, not across a
    fork. Owns its sockets until close(); usable as `with`. Making one speaks to nobody yet.

    A daemon that ends and comes back is waited for: a request that it had is made again, and not
    carried out twice. Every method raises NoDaemonError, DaemonTimeoutError, RoleError, and what it
    names itself.
    """

    def __init__(
        self, runtime_dir: str | os.PathLike[str] | None = None, *, timeout_s: float = 10.0
    ) -> None:
        self._link = Link(RuntimeFolder.find(runtime_dir, os.environ), timeout_s)

    @property
    def runtime_dir(self) -> Path:
        return self._link.folder.path

    def current_pid(self) -> int:
        """This process's PID as the kernel reports it to the daemon."""
        return self._link.ask(protocol.CurrentPid(), protocol.YourPid).pid

    def status(self) -> protocol.DaemonStatus:
        """What the daemon holds and for whom: .pid, .models (by name), .workers, .staging, …;
        sizes in bytes, times in seconds."""
        return self._link.ask(protocol.Status(), protocol.DaemonStatus)

    def counters(self) -> Counts:
        """What the daemon has counted since it began: attaches, refusals by reason, publishes, …"""
        return self._link.ask(protocol.Counters(), protocol.Tally).counts

    def load(  # noqa: PLR0913 - each is an option
        self,
        name: str,
        file: "str | os.PathLike[str] | Mapping[str, Array]",
        *,
        engine: str = "",
        keep_tensors: bool = False,
        weights_only: bool = False,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Load a model and make it live; returns its version, 1.

        file: a path (ONNX, MindIR, safetensors, ckpt, npz; told apart by content), opened here and
        sent as a descriptor, or tensors by name, copied into sealed memory. engine: 'prepacked',
        'plain' or 'reference', which is then used or the load refused; '' for the daemon's choice,
        prepacked and plain where that fails. keep_tensors: keep the source's tensors beside what
        the engine makes of them, to be read and for workers with another onnxruntime, for their
        size in memory. weights_only: leave a graph aside, here and in what is published later: the
        tensors are read, not run. dry_run: do all but publish. on_progress gets protocol.Progress
        (step, bytes done, bytes in all) in this thread.

        Ctrl-C, or the end of this process, cancels it. Raises ModelExistsError, BadFileError,
        UnsupportedModelError (a MindIR graph that cannot be translated), CompileError, AnswerError
        (it says something else than a private session), InsufficientMemoryError, StagingError,
        CancelledError, BusyError, LimitError.
        """
        given = (cast("Engine", engine), keep_tensors, dry_run, weights_only)
        return self._link.staged(
            name,
            file,
            lambda ticket, once: protocol.Load(name, ticket, *given, once),
            on_progress,
        ).version

    def publish(
        self,
        name: str,
        file: "str | os.PathLike[str] | Mapping[str, Array]",
        *,
        names: Iterable[str] = (),
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
        on_renamed: OnRenamed | None = None,
    ) -> int:
        """Give a model a full set of new weights; returns the version that is now live (with
        dry_run: would be). Returns when new attaches get it; workers switch on their own.

        names: rules by which the file's names become the model's, in order: 'OLD=NEW', with a * on
        both sides for any text, 'PATTERN=' to leave out, 'auto' to find it (a prefix more or less,
        MindSpore's words for PyTorch's or the other way round; never a guess). The file's own graph
        is left aside then. on_renamed gets what became of each name, '' for those left out.

        A refusal changes nothing and uses up no number. Other parameters and errors as in load(),
        whose engine and keep_tensors hold on, and UnknownModelError, MismatchError (a tensor is
        missing, extra, of another dtype or shape; or the rules do not fit).
        """
        rules = tuple(names)
        live = self._link.staged(
            name,
            file,
            lambda ticket, once: protocol.Publish(name, ticket, dry_run, rules, once),
            on_progress,
        )
        if on_renamed is not None:
            on_renamed(live.renamed)
        return live.version

    def update(
        self,
        name: str,
        file: "str | os.PathLike[str] | Mapping[str, Array]",
        *,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Replace some of a model's weights; returns the version that is now live (with dry_run:
        would be). The others stay as they are in the live version.

        file: those that change, by the model's names: a path, or arrays, copied into sealed memory.
        The others are read from the live version's memory, or again from the file that it was made
        from, which must be what it was. A refusal changes nothing and uses up no number. Returns
        when new attaches get the version; workers switch on their own.

        Other parameters and errors as in publish(), SourceChangedError, and DamagedError (the live
        version's memory is not as it was published). MismatchError also when the others cannot be
        had: they were packed, and came in memory.
        """
        return self._link.staged(
            name,
            file,
            lambda ticket, once: protocol.Update(name, ticket, dry_run, once),
            on_progress,
        ).version

    def rollback(self, name: str, version: int | None = None) -> int:
        """Make a held version live again, None for the one that was live before; returns the
        version that is now live. Raises UnknownModelError, UnknownVersionError, DamagedError,
        IllegalTransitionError (it is live already)."""
        request = protocol.Rollback(name, version, secrets.randbits(63))
        return self._link.ask(request, protocol.Live).version

    def verify(
        self, name: str | None = None, *, on_progress: OnProgress | None = None
    ) -> tuple[VersionCheck, ...]:
        """Compare the resident bytes of all versions of a model, None for everything that is held,
        with their digests, now and at full speed; returns what was found of each version:
        .model, .version, .pieces, .nbytes, .seconds, .verdict ('sound', 'damaged', or 'freed'
        meanwhile), .damage.

        A damaged version is marked in status and goes on being served. One verify at a time; it
        goes on when this process ends. Without a name it is for admins. on_progress as in load().
        Raises UnknownModelError, BusyError, VerifyError (the check itself could not be done).
        """
        return self._link.ask(protocol.Verify(name), protocol.Verified, on_progress).versions

    def unload(self, name: str) -> None:
        """Forget a model. Attached workers keep what they map; memory goes when the last one
        detaches. Raises UnknownModelError, BusyError."""

        def attempt(is_repeated: bool) -> None:
            try:
                self._link.ask_once(protocol.Unload(name), protocol.Done)
            except UnknownModelError:
                if not is_repeated:  # else the daemon that was lost had done it
                    raise

        self._link.repeated(attempt)

    def cancel(self, name: str) -> None:
        """Stop the load or publish of this model that runs now. Raises UnknownModelError."""
        self._link.ask(protocol.Cancel(name), protocol.Done)

    def allow(self, name: str, pids: int | Iterable[int]) -> int:
        """Let living processes attach a model; returns the handle for just these (a uint64).

        pids: as the daemon sees them (current_pid). An entry is the process, not the number: it
        ends with it. Raises UnknownModelError, NotAllowedError (no such process).
        """
        handle = self._link.ask(protocol.Allow(name, _numbers(pids)), protocol.Allowed).handle
        if handle is None:
            raise BrokenPeerError("the daemon allowed processes and named no handle")
        return handle

    def allow_rules(self, name: str, rules: str | Iterable[str]) -> tuple[str, ...]:
        """Let all processes attach a model that fit a rule; they need no handle. Returns what keeps
        them from it all the same, for people to read.

        rules: 'uid:1000', 'user:alice', 'gid:100', 'group:ml', 'unit:inference@*.service'. Names
        are looked up here and now. Raises UnknownModelError, SettingsError (no such rule, user or
        group), LimitError.
        """
        return self._link.ask(protocol.Allow(name, (), _rules(rules)), protocol.Allowed).notes

    def deny(
        self, name: str, rules: str | Iterable[str], *, lift: bool = False, kill: bool = False
    ) -> protocol.Revoked:
        """Let nobody attach a model who fits a rule, whatever else lets him in; with lift=True take
        such rules back; .rules has those that were there. Who has it attached loses the right, as
        by revoke(), which see. rules and errors: as in allow_rules()."""
        return self._link.ask(protocol.Deny(name, _rules(rules), lift, kill), protocol.Revoked)

    def revoke(
        self,
        name: str,
        pids: int | Iterable[int] = (),
        *,
        rules: str | Iterable[str] = (),
        kill: bool = False,
    ) -> protocol.Revoked:
        """End the right of processes to attach and to get new versions, at once; and take rules
        back that let them in. Neither named: of all processes, and all rules but the settings'.

        What they have mapped stays readable until they exit; the answer lists them. kill=True ends
        them by SIGKILL, where the daemon may. Raises UnknownModelError.
        """
        request = protocol.Revoke(name, _numbers(pids), kill, _rules(rules))
        return self._link.ask(request, protocol.Revoked)

    def shutdown(self) -> None:
        """Have the daemon drain and exit. Workers keep predicting on what they have."""
        self._link.ask_once(protocol.Shutdown(), protocol.Done)

    def upgrade(self) -> None:
        """Have the daemon end and be started again, from the weightd that is installed now; returns
        when it is there again. Weights stay where they are and are not read again, workers go on
        predicting. Raises StoreError (nobody would start it again and keep the weights), BusyError
        (a model is being staged), DaemonTimeoutError."""
        before = self.status().pid
        self._link.ask_once(protocol.Upgrade(), protocol.Done)
        deadline_s = time.monotonic() + self._link.timeout_s
        while self.status().pid == before:
            if time.monotonic() > deadline_s:
                raise DaemonTimeoutError(f"the daemon has not ended in {self._link.timeout_s} s")
            time.sleep(RETRY_S)

    def events(self, name: str = "") -> Iterator[protocol.Event]:
        """What happens from now on, of models whose name begins so; ends when the caller stops
        asking. Waits without a limit. After a gap, in which the daemon was away or events came
        faster than they were asked for, comes a `missed`, whatever the name: what happened in it is
        not told."""
        for raw in self._link.events(name):
            yield self._missed() if raw is None else protocol.decode(raw, protocol.Event)

    def _missed(self) -> protocol.Event:
        """Says that there was a gap, and what the daemon that is there now has."""
        pid, text = 0, _GAP
        try:
            status, counts = self.status(), self.counters()
        except WeightdError as error:
            text = f"{text}, nor what it has now: {error}"
        else:
            pid = status.pid
            text = (
                f"{text}; incarnation {status.incarnation} has "
                f"{counted(len(status.models), 'model')}, "
                f"adopted {counted(counts.adopted_versions, 'version')} "
                f"and refused {counted(counts.refused_adoptions, 'thing')}"
            )
        return protocol.Event("missed", "", 0, pid, text)

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._link.folder.path}>"


def _numbers(pids: int | Iterable[int]) -> tuple[int, ...]:
    return (pids,) if isinstance(pids, int) else tuple(pids)


def _rules(rules: str | Iterable[str]) -> tuple[str, ...]:
    """In numbers: what users and groups are called is this machine's, as this process sees it."""
    from weightd.daemon.accounts import Accounts
    from weightd.daemon.policy import Rule

    texts = (rules,) if isinstance(rules, str) else tuple(rules)
    return tuple(str(Rule.parse(text, Accounts())) for text in texts)
