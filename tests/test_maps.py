"""/proc/self/maps, as the kernel writes it, and what this process really has mapped."""

import mmap
from pathlib import Path

import pytest

from weightd.ipc import maps
from weightd.ipc.maps import Mapping

LINES = [
    b"00400000-0040b000 r--p 00001000 fe:00 123456          /usr/bin/cat",
    b"7f0000000000-7f0000021000 rw-p 00000000 00:00 0 ",
    b"7f0000022000-7f0000023000 r--s 0001f000 00:01 77      /memfd:weightd:m.v1 (deleted)",
    b"7f0000023000-7f0000024000 r--p 00000000 08:01 5       /tmp/a b\tc/\xff weights",
    b"7f0000024000-7f0000025000 r-xp 00000000 00:00 0       [vdso]",
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]",
]


def test_lines_of_the_kernel_are_read_and_what_is_no_file_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "maps"
    path.write_bytes(b"".join(line + b"\n" for line in LINES))
    monkeypatch.setattr(maps, "Path", lambda _: path)
    assert maps.read_maps() == [
        Mapping(0x400000, 0x40B000, 0x1000, "fe:00", 123456, "/usr/bin/cat"),
        Mapping(
            0x7F0000022000, 0x7F0000023000, 0x1F000, "00:01", 77, "/memfd:weightd:m.v1 (deleted)"
        ),
        Mapping(0x7F0000023000, 0x7F0000024000, 0, "08:01", 5, "/tmp/a b\tc/\udcff weights"),
    ]


@pytest.mark.parametrize("name", ["weights", "we ights (deleted)", "gewichte\u00e4\udcff"])
def test_the_mappings_of_a_file_are_found_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    with path.open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        end = mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ, offset=2 * mmap.PAGESIZE)
    found = maps.mappings_of(str(path))
    assert sorted((m.offset, m.nbytes) for m in found) == [
        (0, 3 * mmap.PAGESIZE),
        (2 * mmap.PAGESIZE, mmap.PAGESIZE),
    ]
    assert {m.inode for m in found} == {path.stat().st_ino}
    assert maps.read_maps() == sorted(maps.read_maps())
    whole.close()
    end.close()
    assert maps.mappings_of(str(path)) == []


def test_a_name_that_only_begins_alike_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "weights2"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert maps.mappings_of(str(tmp_path / "weights")) == []
        assert len(maps.mappings_of(str(path))) == 1
