"""Where a process that shares its own model is found: embedded mode, without a daemon.

    <folder>/4711-9f3c/            the runtime folder of process 4711's server
    <folder>/5d41402abc4b2a76      a link to it, named after the digest of a handle

The folder is one user's (mode 0700), and the digest tells nobody the handle. What a killed process
left is removed by the next one that begins to share.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from weightd.errors import (
    AlreadyRunningError,
    BadHandleError,
    NotAllowedError,
    SettingsError,
)
from weightd.ipc.peer import Peer
from weightd.ipc.runtime import EMBEDDED, InstanceLock, RuntimeFolder
from weightd.ipc.seqpacket import connect

_PROBE_S = 1.0
_MAX_PATH = 107 - len("/embedded/4194304-01234567/control.sock")  # of a socket's name


class Rendezvous:
    """The folder of one user. Making one touches nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.path = _base(environ) / EMBEDDED

    def new_folder(self) -> tuple[RuntimeFolder, InstanceLock]:
        """A runtime folder for a server of this process, and the lock on it, which is the caller's;
        SettingsError when it cannot be made."""
        base = RuntimeFolder(self.path.parent)
        if not base.path.exists():
            base.create(0o700)
        elif not _is_ours(base.path):
            raise SettingsError(_not_ours(base.path))
        RuntimeFolder(self.path).create(0o700)
        with self._alone():
            self._sweep()
            folder = RuntimeFolder(self.path / f"{os.getpid()}-{secrets.token_hex(4)}")
            folder.create(0o700)
            return folder, InstanceLock(folder)

    def announce(self, folder: RuntimeFolder, handle: int) -> None:
        """Let those who have the handle find the server."""
        self._link(handle).symlink_to(folder.path.name)

    def find(self, handle: int) -> RuntimeFolder | None:
        """The runtime folder of the server that made this handle; None when there is none here.
        NotAllowedError when others could have put it there, or the server is another user's."""
        link = self._link(handle)
        if not link.is_symlink():
            return None
        if not _is_ours(self.path.parent):
            raise NotAllowedError(_not_ours(self.path.parent))
        folder = RuntimeFolder(self.path / link.readlink())
        with connect(folder.attach, max_fds=0, timeout_s=_PROBE_S) as connection:
            server = Peer.of(connection.sock)
        server.process.close()
        if server.uid != os.geteuid():
            raise NotAllowedError(
                f"the process at {folder.attach} runs as uid {server.uid}: it is not this user's, "
                "and its memory is not to be trusted"
            )
        return folder

    def remove(self, folder: RuntimeFolder) -> None:
        """Take a server's folder away, and every link to it."""
        for link in self.path.glob("*"):
            with contextlib.suppress(OSError):  # another process may be removing it, too
                if link.is_symlink() and os.readlink(link) == folder.path.name:
                    link.unlink()
        shutil.rmtree(folder.path, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process sweeps or makes a folder meanwhile."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        """Remove what killed processes left: nobody holds its lock."""
        for path in self.path.iterdir():
            folder = RuntimeFolder(path)
            if path.is_symlink() or not folder.lock.exists():
                continue
            with contextlib.suppress(AlreadyRunningError, SettingsError), InstanceLock(folder):
                self.remove(folder)

    def _link(self, handle: int) -> Path:
        digest = hashlib.sha256(b"weightd handle %d" % handle).hexdigest()
        return self.path / digest[:16]


def _base(environ: Mapping[str, str]) -> Path:
    """The runtime folder if it is this user's or can become so, and its name leaves room for ours;
    else one in the temporary folder: a service has its own, in which users cannot write."""
    with contextlib.suppress(SettingsError):
        path = RuntimeFolder.find(None, environ).path
        is_short = len(os.fsencode(path)) <= _MAX_PATH
        if is_short and (_is_ours(path) if path.exists() else _can_be_made(path)):
            return path
    return Path(tempfile.gettempdir()) / f"weightd-{os.geteuid()}"


def _can_be_made(path: Path) -> bool:
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK)


def _not_ours(base: Path) -> str:
    return (
        f"{base} belongs to another user, or others can write to it: set $WEIGHTD_RUNTIME_DIR to a "
        "folder of your own"
    )


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    is_folder = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
    return is_folder and found.st_uid == os.geteuid()


def no_such_handle(handle: int) -> BadHandleError:
    """What to say when neither a process of this user nor a daemon knows a handle."""
    return BadHandleError(
        f"nobody answers to the handle {handle}: the process that made it has ended, it runs as "
        "another user, or it has another $WEIGHTD_RUNTIME_DIR or $XDG_RUNTIME_DIR"
    )
