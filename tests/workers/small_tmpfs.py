"""Hollow files where file systems are small. Run it in a mount namespace of its own, as root, with
a folder: mounts there and on /dev/shm, and prints what it found, as JSON."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pairs import core_of, entry_named, paired
from weightd.backends import hollow
from weightd.backends.hollow import hollow_file
from weightd.errors import WeightdError, to_wire

MIB = 2**20
folder = Path(sys.argv[1])
tiny = folder / "tiny"


def mount(where: Path, size: str) -> None:
    where.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(where)]
    subprocess.run(command, check=True)


def made_in(nbytes: int, *, usual: Path, others: tuple[Path, Path]) -> Any:
    """The folder in which a hollow file is made, all of which is then read."""
    tempfile.tempdir = str(usual)
    hollow.OTHER_FOLDERS = str(others[0]), str(others[1])
    try:
        with hollow_file("weights", nbytes, {4096: b"real"}) as path:
            found = path.read_bytes()
            assert len(found) == nbytes
            assert found.count(0) == nbytes - 4
            return str(path.parent.parent)
    except WeightdError as error:
        return to_wire(error)


def session_opened() -> Any:
    """A session whose usual folder for temporary files is too small for its hollow file."""
    tempfile.tempdir = str(folder)
    with paired(entry_named("big_table")) as pair:
        tempfile.tempdir = str(tiny)
        hollow.OTHER_FOLDERS = str(folder), str(folder)
        session = pair.open_packed(1)
        answers = [pair.run(session)]
        session.swap(pair.map(2))
        answers.append(pair.run(session))
        nbytes = core_of(session)._plan.dummy.end
        return {"answers": answers, "nbytes": nbytes, "left": [p.name for p in tiny.iterdir()]}


def all_in_docker() -> Any:
    """What fits in Docker's /dev/shm of 64 MB, and what does not."""
    shm = Path("/dev/shm")
    return [
        made_in(40 * MIB, usual=shm, others=(folder, folder)),
        made_in(100 * MIB, usual=shm, others=(folder, folder)),
        made_in(100 * MIB, usual=tiny, others=(shm, shm)),
    ]


FINDINGS: dict[str, Callable[[], Any]] = {
    "fits": lambda: made_in(MIB // 2, usual=tiny, others=(folder, folder)),
    "too large": lambda: made_in(2 * MIB, usual=tiny, others=(folder, folder)),
    "nowhere": lambda: made_in(2 * MIB, usual=tiny, others=(tiny, tiny)),
    "docker": all_in_docker,
    "session": session_opened,
}

mount(tiny, "512K")
mount(Path("/dev/shm"), "64M")
print(json.dumps({name: find() for name, find in FINDINGS.items()}))
