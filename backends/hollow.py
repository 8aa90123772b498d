"""A file that is all holes: it stands in for weights while onnxruntime builds a session.

onnxruntime wants external data in a named file and looks at its size. Here such a file has that
size and takes next to no space, and is gone as soon as the session is there.

A hole that is read takes a page: of the page cache on a disk, of the file system itself on a tmpfs,
where a read of a page that does not fit is SIGBUS. So a tmpfs too small for the whole file is
passed over (Docker's /dev/shm has 64 MB), and of any other what will be read is taken beforehand.

A process that is killed meanwhile leaves its file behind. It is locked as long as its maker lives;
the next one to make such a file removes those that are not.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from weightd.errors import CompileError
from weightd.ipc.linux import is_tmpfs

OTHER_FOLDERS = ("/var/tmp", "/dev/shm")  # where $TMPDIR, or /tmp, will not do
_PREFIX = "weightd-hollow-"
_YOUNG_S = 60.0  # a folder may not have its file yet

Content = Mapping[int, "bytes | memoryview"]  # what lies where; the rest is holes
Span = tuple[int, int]  # offset, nbytes


@contextmanager
def hollow_file(
    name: str, nbytes: int, content: Content | None = None, *, read: Span = (0, 0)
) -> Iterator[Path]:
    """A sparse file of this name and size in a new folder of its own, for the `with`. read: holes
    that will be read. CompileError when no folder will do."""
    with ExitStack() as resources:
        folders, why = _folders(), OSError("there is none")
        for folder in folders:
            attempt = resources.enter_context(ExitStack())
            try:
                path = _made(attempt, folder, name, nbytes)
                _fill(path, content or {}, read if is_tmpfs(folder) else (0, 0))
            except OSError as error:
                why = error
                attempt.close()
            else:
                break
        else:
            raise CompileError(
                "onnxruntime needs a folder for temporary files and none of "
                f"{', '.join(folders)} will do: {why}; set TMPDIR"
            )
        yield path


def _folders() -> Sequence[str]:
    try:
        return (tempfile.gettempdir(), *OTHER_FOLDERS)
    except OSError:  # no temporary folder that Python would use
        return OTHER_FOLDERS


def _made(attempt: ExitStack, folder: str, name: str, nbytes: int) -> Path:
    """An empty file of this size, locked, in a new folder that goes with the attempt."""
    _check_room(folder, nbytes)
    _sweep(Path(folder))
    new = attempt.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder))
    path = Path(new).resolve() / name  # through no link: by the name that the kernel has for it
    file = attempt.enter_context(path.open("xb", buffering=0))
    fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(nbytes)
    return path


def _check_room(folder: str, nbytes: int) -> None:
    if not is_tmpfs(folder):
        return
    room = os.statvfs(folder)
    if (free := room.f_bavail * room.f_frsize) < nbytes:
        raise OSError(f"{folder} has {free} bytes left of the {nbytes} that are needed")


def _sweep(folder: Path) -> None:
    """Remove what processes of this user left that were killed."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = left.lstat()
            is_old = time.time() - status.st_mtime > _YOUNG_S
            if (
                is_old
                and status.st_uid == os.geteuid()
                and not any(map(_is_locked, left.iterdir()))
            ):
                shutil.rmtree(left)


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _fill(path: Path, content: Content, read: Span) -> None:
    with path.open("r+b", buffering=0) as file:
        if read[1]:
            os.posix_fallocate(file.fileno(), *read)
        for offset, raw in content.items():
            _write(file.fileno(), raw, offset)


def _write(fd: int, raw: "bytes | memoryview", offset: int) -> None:
    view = memoryview(raw)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
