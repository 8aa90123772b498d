"""The runtime folder: where a daemon's sockets are, and the lock that makes it the only one.

control.sock   ZeroMQ ROUTER: requests of owners and admins
events.sock    ZeroMQ ROUTER: what happens
admin.sock     SEQPACKET: files as descriptors, from owners and admins
attach.sock    SEQPACKET: workers
keeper.sock    what a keeper is told by its daemon, if there is one
metrics.sock   HTTP: the exporter, a process of its own, where it is wanted
daemon.lock    held (flock) while a daemon lives
embedded/      processes that share a model of their own: rendezvous.py
"""

import errno
import fcntl
import os
import socket
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from weightd.errors import AlreadyRunningError, SettingsError

EMBEDDED = "embedded"
_METRICS = "metrics.sock"
_OTHERS = {EMBEDDED, _METRICS}  # what may be there before there was a daemon
_MAX_SOCKET_PATH = 107  # sun_path, less its NUL


class RuntimeFolder(msgspec.Struct, frozen=True):
    """The paths in one runtime folder. Making one touches nothing."""

    path: Path

    @property
    def is_embedded(self) -> bool:
        """Whether it is of a process that shares a model of its own, and ends with that."""
        return self.path.parent.name == EMBEDDED

    @property
    def control(self) -> Path:
        return self.path / "control.sock"

    @property
    def events(self) -> Path:
        return self.path / "events.sock"

    @property
    def admin(self) -> Path:
        return self.path / "admin.sock"

    @property
    def attach(self) -> Path:
        return self.path / "attach.sock"

    @property
    def keeper(self) -> Path:
        return self.path / "keeper.sock"

    @property
    def metrics(self) -> Path:
        return self.path / _METRICS

    def names_keeper(self) -> bool:
        """Whether a keeper's socket is there; False, too, where this user may not look."""
        try:
            return self.keeper.exists()
        except PermissionError:
            return False

    def has_keeper(self) -> bool:
        """Whether a keeper lives there, with a daemon or about to start one."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return probe.connect_ex(os.fspath(self.keeper)) == 0

    @property
    def lock(self) -> Path:
        return self.path / "daemon.lock"

    @classmethod
    def find(cls, given: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Self:
        """The folder that is named: given, $WEIGHTD_RUNTIME_DIR, systemd's $RUNTIME_DIRECTORY,
        $XDG_RUNTIME_DIR/weightd, or /run/weightd for root; SettingsError when none is."""
        path = _first_named(given, environ)
        folder = cls(Path(path).absolute())
        if len(os.fsencode(folder.control)) > _MAX_SOCKET_PATH:
            raise SettingsError(
                f"the runtime folder {folder.path} is too long a path for sockets "
                f"(at most {_MAX_SOCKET_PATH - len('/control.sock')} bytes); choose a shorter one"
            )
        return folder

    def is_attach_public(self) -> bool:
        """Whether processes of other users may connect to the attach socket, if there is one."""
        try:
            return bool(self.attach.stat().st_mode & stat.S_IWOTH)
        except OSError:
            return False

    def create(self, mode: int) -> None:
        """Make the folder if it is not there; refuse one that others could write to, and one that
        is for something else: its mode would have to change under those who use it."""
        try:
            self.path.mkdir(mode=mode, parents=True, exist_ok=True)
            found = self.path.lstat()
        except OSError as error:
            raise SettingsError(
                f"cannot make the runtime folder {self.path}: {error.strerror}"
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            raise SettingsError(f"the runtime folder {self.path} is not a folder")
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
            raise SettingsError(
                f"the runtime folder {self.path} could be written by others (owner uid "
                f"{found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}): they could put their own "
                f"sockets there; use one of your own, mode {mode:o}"
            )
        if stat.S_IMODE(found.st_mode) != mode:
            self._make_own(found, mode)

    def _make_own(self, found: os.stat_result, mode: int) -> None:
        is_ours = found.st_uid == os.geteuid()
        others = [path for path in self.path.iterdir() if path.name not in _OTHERS]
        if not is_ours or (others and not self.lock.exists()):
            raise SettingsError(
                f"{self.path} is in use for something else (owner uid {found.st_uid}, mode "
                f"{stat.S_IMODE(found.st_mode):o}, not empty); give a folder of weightd's own, "
                f"such as {self.path / 'weightd'}"
            )
        self.path.chmod(mode)


def _first_named(
    given: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> str | os.PathLike[str]:
    if given:
        return given
    for name in ("WEIGHTD_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
        if environ.get(name):
            return environ[name].split(":")[0]  # systemd lists several with colons
    if environ.get("XDG_RUNTIME_DIR"):
        return f"{environ['XDG_RUNTIME_DIR']}/weightd"
    if os.geteuid() == 0:
        return "/run/weightd"
    raise SettingsError(
        "no runtime folder: neither --runtime-dir, $WEIGHTD_RUNTIME_DIR nor $XDG_RUNTIME_DIR is "
        "set; try --runtime-dir ~/.weightd"
    )


class InstanceLock:
    """Held by the one daemon of a runtime folder, until the process ends, however it ends.

    An flock: a POSIX record lock would go when anybody made the daemon open and close this file
    once more, as an offered model file does. A forked child closes its copy at once."""

    def __init__(self, folder: RuntimeFolder) -> None:
        try:
            self._fd = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"cannot open {folder.lock}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise AlreadyRunningError(
                f"a daemon (pid {holder or 'unknown'}) serves {folder.path} already; stop it, or "
                "start this one with another --runtime-dir"
            ) from error
        _held.add(self)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        _held.discard(self)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_held: "weakref.WeakSet[InstanceLock]" = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)
