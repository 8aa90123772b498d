"""The daemon's process: settings in, signals, the instance lock, and out.

Started by `weightd serve` and by systemd as `python -m weightd.daemon.main RUNTIME_DIR ORIGIN`,
where ORIGIN is JSON or the path of a file; it imports neither numpy nor an engine.
"""

import contextlib
import faulthandler
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator

from weightd.daemon import logs
from weightd.daemon.keeper import RESTART_STATUS
from weightd.daemon.origin import Origin
from weightd.daemon.server import Server
from weightd.daemon.settings import Settings
from weightd.errors import WeightdError
from weightd.ipc import linux
from weightd.ipc.manager import Given
from weightd.ipc.runtime import InstanceLock, RuntimeFolder

log = logging.getLogger("weightd.daemon")

USER_MISTAKE = 2  # exit status
WATCHDOG_S = 30.0  # of a daemon under a keeper


def command(folder: RuntimeFolder, origin: Origin | Settings) -> list[str]:
    """The argv that starts a daemon."""
    if isinstance(origin, Settings):
        origin = Origin.of(origin)
    return [sys.executable, "-P", "-m", "weightd.daemon.main", str(folder.path), origin.encode()]


def kept_command(folder: RuntimeFolder, origin: Origin | Settings) -> list[str]:
    """The argv that starts a keeper, which starts a daemon."""
    keeper = [sys.executable, "-P", "-m", "weightd.daemon.keeper", str(folder.keeper)]
    return [*keeper, f"{WATCHDOG_S:g}", *command(folder, origin)]


def serve(folder: RuntimeFolder, origin: Origin, settings: Settings, given: Given) -> int:
    """Run a daemon in this thread, the process's main one, until SIGTERM, SIGINT or shutdown.
    SIGHUP has it read its settings again. given: by the service manager; what it stored is taken
    over. Returns the exit status."""
    folder.create(settings.folder_mode)
    with InstanceLock(folder):
        server = Server(folder, settings, given)
        with _signals(server, origin):
            server.run()
    return RESTART_STATUS if server.is_to_be_restarted else 0


@contextlib.contextmanager
def _signals(server: Server, origin: Origin) -> Iterator[None]:
    """SIGTERM and SIGINT drain the server while this lasts, SIGHUP has it reload."""

    def stop(number: int, _frame: object) -> None:
        server.stop(signal.Signals(number).name)

    def reload(_number: int, _frame: object) -> None:
        server.reload(origin.read)

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, before)  # a keeper's daemon begins with them blocked
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(argv: list[str]) -> int:
    linux.hide_from_same_user()
    faulthandler.enable()  # SIGABRT, of a watchdog: the log has where every thread hangs
    _raise_descriptor_limit()
    logs.begin("INFO", os.environ)
    try:
        given = Given.take(os.environ)
        origin = Origin.decode(argv[2])
        settings = origin.read()
        logs.set_level(settings.log_level)
        return serve(RuntimeFolder.find(argv[1], {}), origin, settings, given)
    except WeightdError as error:
        log.error("%s", error)
        return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv))
