"""The daemon's process: settings in, signals, the instance lock, and out.

Started by `weightd serve` as `python -m weightd.daemon.main RUNTIME_DIR SETTINGS_JSON`; it imports
neither numpy nor an engine.
"""

import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from weightd.daemon import audit
from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.server import Server
from weightd.daemon.settings import Settings
from weightd.errors import SettingsError, WeightdError
from weightd.ipc import linux
from weightd.ipc.manager import Given
from weightd.ipc.runtime import InstanceLock, RuntimeFolder

log = logging.getLogger("weightd.daemon")

USER_MISTAKE = 2  # exit status
WATCHDOG_S = 30.0  # of a daemon under a keeper


def command(folder: RuntimeFolder, settings: Settings) -> list[str]:
    """The argv that starts a daemon."""
    try:
        plain = msgspec.json.encode(settings).decode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"a path in the settings is not UTF-8: {error.object!r}") from error
    return [sys.executable, "-P", "-m", "weightd.daemon.main", str(folder.path), plain]


def kept_command(folder: RuntimeFolder, settings: Settings) -> list[str]:
    """The argv that starts a keeper, which starts a daemon."""
    keeper = [sys.executable, "-P", "-m", "weightd.daemon.keeper", str(folder.keeper)]
    return [*keeper, f"{WATCHDOG_S:g}", *command(folder, settings)]


def serve(folder: RuntimeFolder, settings: Settings, given: Given | None = None) -> None:
    """Run a daemon in this thread, the process's main one, until SIGTERM, SIGINT or shutdown.
    given: by the service manager; what it stored is taken over."""
    folder.create(settings.folder_mode)
    with InstanceLock(folder), contextlib.ExitStack() as unused:
        files = {name: open_file(path) for name, path in settings.paths.items()}
        for offered in files.values():
            unused.callback(offered.close)
        server = Server(folder, settings, given)
        with _signals(server):
            unused.pop_all()
            server.load(files)
            server.run()


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


@contextlib.contextmanager
def _signals(server: Server) -> Iterator[None]:
    """SIGTERM and SIGINT drain the server while this lasts."""

    def stop(number: int, _frame: object) -> None:
        server.stop(signal.Signals(number).name)

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(argv: list[str]) -> int:
    settings = msgspec.json.decode(argv[2], type=Settings)
    logging.basicConfig(
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger(audit.log.name).setLevel(logging.INFO)  # a record, at whatever level
    linux.hide_from_same_user()
    _raise_descriptor_limit()
    try:
        serve(RuntimeFolder.find(argv[1], {}), settings, Given.take(os.environ))
    except WeightdError as error:
        log.error("%s", error)
        return USER_MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
