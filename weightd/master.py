"""The process that shares a model: it has the weights held by a daemon, or by a server of its own,
and gets the handle for those whom it lets in.
"""

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from weightd.client import Client
from weightd.config import BuildConfig
from weightd.errors import NoDaemonError, SettingsError, UnknownModelError, WeightdError
from weightd.ipc.rendezvous import Rendezvous, no_such_handle
from weightd.ipc.runtime import RuntimeFolder
from weightd.ipc.seqpacket import connect
from weightd.weights.arrays import Array

if TYPE_CHECKING:
    from weightd.backends.attachment import Attachment
    from weightd.daemon.embedded import Embedded

_PREFIX = "mslite"
_PROBE_S = 2.0
_TIMEOUT_S = 60.0
_SWITCH_S = 120.0


class Master:
    """A model that this process loaded and shares. handle: for the processes in `pids`, and for
    this one. Counts who uses it here, and goes with the last.

    Raises what Client.load and Client.allow do.
    """

    def __init__(
        self, path: str, pids: Sequence[int], config: BuildConfig, environ: Mapping[str, str]
    ) -> None:
        self._users = 0
        self._using = threading.Lock()
        self._updating = threading.Lock()
        with ExitStack() as resources:
            self.folder, embedded = _server(config, environ, resources)
            self._client = resources.enter_context(Client(self.folder.path, timeout_s=_TIMEOUT_S))
            own = self._client.current_pid()
            self.name = _name(own, Path(path).stem)
            if embedded is None:
                _unload_of_the_dead(self._client, own)
            self._client.load(self.name, path, engine=config.engine)
            if embedded is None:
                resources.callback(self._unload)
            self.handle = self._client.allow(self.name, dict.fromkeys((own, *pids)))
            if embedded is not None:
                embedded.announce(self.handle)
            self._resources = resources.pop_all()

    def update(self, tensors: Mapping[str, Array], attachment: "Attachment") -> None:
        """Replace some weights, for everybody who has attached, and return once this process's own
        attachment predicts on them. Raises as Client.update does, and DaemonTimeoutError."""
        with self._updating:
            try:
                version = self._client.update(self.name, tensors)
            except (NoDaemonError, UnknownModelError) as error:
                raise type(error)(
                    "the daemon that held these weights has ended. Predictions go on as they are; "
                    "build the model again to update it, and those that it is shared with"
                ) from error
            attachment.wait_until_at_least(version, timeout_s=_SWITCH_S)

    @property
    def is_open(self) -> bool:
        """Whether somebody here uses it."""
        return self._users > 0

    def acquire(self) -> "Master":
        """Use it, until release()."""
        with self._using:
            self._users += 1
        return self

    def release(self) -> None:
        with self._using:
            self._users -= 1
            if self._users == 0:
                self._resources.close()

    def _unload(self) -> None:
        with contextlib.suppress(WeightdError):  # a daemon that is gone has forgotten it, too
            self._client.unload(self.name)


def daemon_folder(environ: Mapping[str, str]) -> RuntimeFolder | None:
    """Where a daemon answers this user, who may load models into it; None when none does."""
    try:
        folder = RuntimeFolder.find(None, environ)
        connect(folder.admin, max_fds=0, timeout_s=_PROBE_S).close()
    except (NoDaemonError, SettingsError):
        return None
    return folder


def folder_of(handle: int, environ: Mapping[str, str]) -> RuntimeFolder:
    """The runtime folder of whoever made this handle: a process of this user, else the daemon.
    BadHandleError when there is neither."""
    try:
        folder = Rendezvous(environ).find(handle) or RuntimeFolder.find(None, environ)
        connect(folder.attach, max_fds=0, timeout_s=_PROBE_S).close()
    except (NoDaemonError, SettingsError) as error:
        raise no_such_handle(handle) from error
    return folder


def current_pid(environ: Mapping[str, str]) -> int:
    """This process's PID: the daemon's word where there is one; else what the process itself
    believes, which is proven when it attaches."""
    from weightd.backends.attaching import current_pid as told

    with contextlib.suppress(NoDaemonError, SettingsError):
        return told(runtime_dir=RuntimeFolder.find(None, environ).path)
    return os.getpid()


def _server(
    config: BuildConfig, environ: Mapping[str, str], resources: ExitStack
) -> "tuple[RuntimeFolder, Embedded | None]":
    folder = None if config.daemon == "never" else daemon_folder(environ)
    if folder is not None:
        return folder, None
    if config.daemon == "required":
        raise NoDaemonError(
            "[weightd] daemon is 'required', and no daemon lets this user in: start one with "
            "`weightd keeper`, or name its folder in $WEIGHTD_RUNTIME_DIR"
        )
    from weightd.daemon.embedded import Embedded
    from weightd.daemon.settings import Settings

    # Nobody can roll back here, so no version is kept that nobody uses.
    embedded = resources.enter_context(Embedded(environ, Settings(keep=1)))
    return embedded.folder, embedded


def _name(pid: int, stem: str) -> str:
    """A name that no other process gives, and that says to people what it is."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", stem)[:80]
    return f"{_PREFIX}.{pid}.{secrets.token_hex(4)}.{plain}"


def _unload_of_the_dead(client: Client, own_pid: int) -> None:
    """Have the daemon forget models of processes that were killed before they could say so, and
    that nobody uses any more. Only where it sees the PIDs that this process sees."""
    if own_pid != os.getpid():
        return
    status = client.status()
    in_use = {worker.model for worker in status.workers}
    for name in status.models.keys() - in_use:
        match = re.match(rf"{_PREFIX}\.(\d+)\.[0-9a-f]{{8}}\.", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            with contextlib.suppress(WeightdError):
                client.unload(name)
