"""The models that the settings name: loaded when they are new there, published when they have
another file, unloaded when they are gone. One after the other; a failure is logged, and the next
one is tried."""

import logging
import os
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.asker import Asker
from weightd.daemon.catalog import Catalog
from weightd.daemon.model import Action
from weightd.daemon.publisher import Publisher
from weightd.errors import SettingsError, WeightdError
from weightd.ipc import protocol

log = logging.getLogger("weightd.daemon")


class House(Protocol):
    """What is asked of the server."""

    def perform(self, actions: list[Action]) -> None: ...

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None: ...


class Configured:
    """A model remembers the path that it was loaded from by the settings; those of others are left
    alone."""

    def __init__(self, house: House, catalog: Catalog, publisher: Publisher) -> None:
        self._house = house
        self._catalog = catalog
        self._publisher = publisher
        self._paths: Mapping[str, str] = {}  # as they were read last
        self._waiting: deque[str] = deque()
        self._is_busy = False

    def check(self, paths: Mapping[str, str]) -> None:
        """SettingsError when one of these files cannot be opened, and there is nothing yet: else
        what is there is served or kept, whatever is wrong with others."""
        if not (self._catalog.models or self._catalog.aside):
            for path in paths.values():
                open_file(path).close()

    def follow(self, paths: Mapping[str, str]) -> None:
        """Have the models that these paths name."""
        self._paths = paths
        for name, model in list(self._catalog.models.items()):
            if model.configured and name not in paths:
                self._unload(name)
        self._waiting = deque(paths)
        self._next()

    def stop(self) -> None:
        self._waiting.clear()

    def _unload(self, name: str) -> None:
        try:
            self._house.perform(self._catalog.unload(name))
        except WeightdError as error:
            log.error("model %s, which is no longer in the settings, stays: %s", name, error)
        else:
            self._house.emit("unloaded", name, 0, 0, "it is no longer in the settings")

    def _next(self) -> None:
        while self._waiting and not self._is_busy:
            name = self._waiting.popleft()
            path, found = self._paths[name], self._catalog.models.get(name)
            if found is not None and not found.configured:
                log.warning("model %s was loaded by a client; %s is left alone", name, path)
            elif found is None or found.configured != path:
                self._begin(name, path)

    def _begin(self, name: str, path: str) -> None:
        self._is_busy = True
        try:
            self._stage(name, path)
        except WeightdError as error:
            self._is_busy = False
            self._failed(name, error)

    def _stage(self, name: str, path: str) -> None:
        done = partial(self._done, name)
        asker = Asker(os.geteuid(), None, lambda _: None, done, configured=path)
        if name in self._catalog.models:
            self._publisher.publish(protocol.Publish(name, 0), open_file(path), asker)
        else:
            self._publisher.load(protocol.Load(name, 0), open_file(path), asker)

    def _failed(self, name: str, error: WeightdError) -> None:
        outcome = "stays as it is" if name in self._catalog.models else "was not loaded"
        log.error("model %s %s: %s", name, outcome, error)

    def _done(self, name: str, result: protocol.Live | WeightdError) -> None:
        if isinstance(result, WeightdError):
            self._failed(name, result)
        elif name not in self._paths:  # the settings were read again meanwhile
            self._unload(name)
        self._is_busy = False
        self._next()


def open_file(path: str) -> OfferedFile:
    """A model file and its folder, opened; SettingsError when it cannot be."""
    try:
        file_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            folder_fd = os.open(Path(path).parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError:
            os.close(file_fd)
            raise
    except OSError as error:
        raise SettingsError(f"cannot open {path}: {error.strerror}") from error
    return OfferedFile(Path(path).name, file_fd, folder_fd)
