"""What this process has mapped where, as the kernel tells it (/proc/self/maps)."""

import os
import re
from pathlib import Path
from typing import NamedTuple


class Mapping(NamedTuple):
    """One line: bytes [start, end) show [offset, …) of a file, which device and inode tell. path is
    what the kernel calls it, with " (deleted)" behind it when no name is left."""

    start: int
    end: int
    offset: int
    device: str
    inode: int
    path: str

    @property
    def file(self) -> tuple[str, int]:
        return self.device, self.inode

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def read_maps() -> list[Mapping]:
    """All mappings that have a file, by address. One that no file is behind is left out."""
    raw = Path("/proc/self/maps").read_bytes()
    return [
        Mapping(
            int(start, 16),
            int(end, 16),
            int(offset, 16),
            device.decode(),
            int(inode),
            os.fsdecode(path),
        )
        for start, end, offset, device, inode, path in _WITH_A_FILE.findall(raw)
    ]


def mappings_of(path: str) -> list[Mapping]:
    """The mappings of a file, by its name."""
    return [mapping for mapping in read_maps() if mapping.path == path]


# start-end permissions offset device inode path: proc_pid_maps(5). Inode 0 is no file.
_WITH_A_FILE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) ([1-9][0-9]*) +(.*)$", re.MULTILINE
)
