"""A daemon's Server on a thread of the process whose model it shares: embedded mode.

No daemon is installed. Workers of the same user find it by the handle (ipc/rendezvous.py). It ends
with the process, or when whoever made it closes it; what workers map stays theirs.
"""

import os
import threading
import weakref
from collections.abc import Mapping
from typing import Self

import msgspec

from weightd.daemon.server import Server
from weightd.daemon.settings import Settings
from weightd.ipc.rendezvous import Rendezvous
from weightd.ipc.runtime import InstanceLock, RuntimeFolder

_STOP_S = 30.0


class Embedded:
    """Owns the server, its thread, its runtime folder and the lock on that."""

    def __init__(self, environ: Mapping[str, str], settings: Settings | None = None) -> None:
        self._pid = os.getpid()
        self._rendezvous = Rendezvous(environ)
        self._folder, self._lock = self._rendezvous.new_folder()
        try:
            # Whose model is shared wants no process beside its own that reads all day.
            off = msgspec.structs.replace(settings or Settings(), scrub_mb_per_s=0)
            self._server = Server(self._folder, off)
        except BaseException:
            self._lock.close()
            self._rendezvous.remove(self._folder)
            raise
        self._thread = threading.Thread(
            target=_serve,
            args=(self._server, self._lock, self._rendezvous, self._folder),
            name="weightd:embedded",
            daemon=True,
        )
        self._thread.start()
        _running.add(self)

    @property
    def folder(self) -> RuntimeFolder:
        """For a Client, and for attach()."""
        return self._folder

    def announce(self, handle: int) -> None:
        """Let workers who have this handle find the server."""
        self._rendezvous.announce(self._folder, handle)

    def close(self) -> None:
        """Stop serving. In a forked child: nothing, it is the parent's."""
        if self._pid != os.getpid() or self not in _running:
            return
        _running.discard(self)
        self._server.stop("the model that it shared was closed")
        if threading.current_thread() is not self._thread:  # the garbage collector's may be
            self._thread.join(_STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _let_go(self) -> None:
        """In a forked child: close what would let workers believe that the parent still serves."""
        self._server.let_go_in_child()


def _serve(
    server: Server, lock: InstanceLock, rendezvous: Rendezvous, folder: RuntimeFolder
) -> None:
    try:
        server.run()
    finally:
        rendezvous.remove(folder)
        lock.close()


_running: "weakref.WeakSet[Embedded]" = weakref.WeakSet()


def _in_child() -> None:
    for embedded in list(_running):
        embedded._let_go()
    _running.clear()


os.register_at_fork(after_in_child=_in_child)
