"""A file that is all holes: it stands in for weights while onnxruntime builds a session.

onnxruntime wants external data in a named file and looks at its size. Here such a file has that
size and takes next to no space, and is gone as soon as the session is there.

A hole that is read takes a page: of the page cache on a disk, of the file system itself on a tmpfs,
where a read of a page that does not fit is SIGBUS. So a tmpfs too small for the whole file is
passed over (Docker's /dev/shm has 64 MB).
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from weightd.errors import CompileError
from weightd.ipc.linux import is_tmpfs

OTHER_FOLDERS = ("/var/tmp", "/dev/shm")  # where $TMPDIR, or /tmp, will not do

Content = Mapping[int, "bytes | memoryview"]  # what lies where; the rest is holes


@contextmanager
def hollow_file(name: str, nbytes: int, content: Content | None = None) -> Iterator[Path]:
    """A sparse file of this name and size in a new folder of its own, for the `with`. CompileError
    when no folder will do."""
    with ExitStack() as resources:
        try:
            folder = tempfile.TemporaryDirectory(prefix="weightd-", dir=_roomy_folder(nbytes))
            # Through no link: it is looked for by the name that the kernel has for it.
            path = Path(resources.enter_context(folder)).resolve() / name
            with path.open("xb", buffering=0) as file:
                for offset, raw in (content or {}).items():
                    _write(file.fileno(), raw, offset)
                file.truncate(nbytes)
        except OSError as error:
            raise _no_folder(str(error)) from error
        yield path


def _roomy_folder(nbytes: int) -> str:
    """The first folder for temporary files that is writable and can hold the file."""
    try:
        usual = tempfile.gettempdir()
    except OSError as error:
        raise _no_folder(str(error)) from error
    candidates = [usual, *OTHER_FOLDERS]
    for folder in candidates:
        if os.access(folder, os.W_OK | os.X_OK) and _has_room(folder, nbytes):
            return folder
    raise _no_folder(f"none of {', '.join(candidates)} can hold {nbytes} bytes")


def _has_room(folder: str, nbytes: int) -> bool:
    if not is_tmpfs(folder):
        return True
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize >= nbytes


def _write(fd: int, raw: "bytes | memoryview", offset: int) -> None:
    view = memoryview(raw)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def _no_folder(why: str) -> CompileError:
    return CompileError(
        f"onnxruntime needs a folder for temporary files and there is none: {why}; set TMPDIR"
    )
