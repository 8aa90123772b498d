"""segment.py: memory that nobody can write once it is sealed."""

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import open_descriptors
from weightd.errors import ClosedError, InsufficientMemoryError, UnsealedSegmentError
from weightd.ipc.segment import SEALS, Segment, new_memfd, reopen_read_only
from weightd.weights.arrays import view

NBYTES = 8192
WORDS = b"weights!"
PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


@pytest.fixture
def writable() -> Iterator[int]:
    """The writer's descriptor of a sealed memfd that begins with WORDS."""
    fd = new_memfd("test")
    keep = os.dup(fd)
    segment = Segment.allocate(fd, NBYTES)
    segment.data[: len(WORDS)] = WORDS
    segment.seal()
    yield keep
    os.close(keep)


def punch_hole(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, PUNCH, ctypes.c_long(0), ctypes.c_long(4096)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def reopen_and_write(fd: int) -> None:
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        os.pwrite(again, b"x", 0)
    finally:
        os.close(again)


def map_writable(fd: int) -> None:
    mmap.mmap(fd, NBYTES, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def make_writable_later(fd: int) -> None:
    mapping = mmap.mmap(fd, NBYTES, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    address = ctypes.c_void_p.from_buffer_copy(ctypes.c_size_t(address_of(mapping)))
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.mprotect(address, ctypes.c_size_t(NBYTES), mmap.PROT_READ | mmap.PROT_WRITE)
    mapping.close()
    if result < 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def address_of(mapping: mmap.mmap) -> int:
    import numpy as np

    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


WRITES: list[Callable[[int], object]] = [
    lambda fd: os.pwrite(fd, b"x", 0),
    lambda fd: os.pwrite(fd, b"x", NBYTES),
    lambda fd: os.ftruncate(fd, 0),
    lambda fd: os.ftruncate(fd, 2 * NBYTES),
    lambda fd: os.posix_fallocate(fd, NBYTES, NBYTES),
    lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10),  # F_SEAL_FUTURE_WRITE
    punch_hole,
    reopen_and_write,
    map_writable,
    make_writable_later,
]
NAMES = [
    "write",
    "grow-by-write",
    "shrink",
    "grow",
    "fallocate",
    "seal-more",
    "punch",
    "reopen",
    "map",
    "mprotect",
]


@pytest.mark.parametrize("write", WRITES, ids=NAMES)
def test_sealed_memory_can_be_written_by_nobody_root_included(
    writable: int, write: Callable[[int], object]
) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which of the two is the kernel's choice
        write(writable)
    assert caught.value.errno in (errno.EPERM, errno.EACCES)
    assert os.pread(writable, len(WORDS), 0) == WORDS
    assert os.fstat(writable).st_size == NBYTES


def test_a_reader_maps_it_and_its_views_are_read_only(writable: int) -> None:
    with Segment.adopt(reopen_read_only(writable)) as segment:
        data = segment.data
        assert bytes(data[: len(WORDS)]) == WORDS
        assert data.readonly
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(segment.fileno(), b"x", 0)


def test_the_pages_of_an_allocation_are_taken_at_once(writable: int) -> None:
    assert os.fstat(writable).st_blocks * 512 >= NBYTES


def file_of(seals: int) -> int:
    fd = new_memfd("bad")
    os.write(fd, b"x")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize(
    "seals",
    [0, *(SEALS & ~seal for seal in (fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE))],
)
def test_unsealed_and_half_sealed_memory_is_not_adopted(seals: int) -> None:
    fd = file_of(seals)
    with pytest.raises(UnsealedSegmentError, match="is not sealed"):
        Segment.adopt(fd)
    os.close(fd)


def test_a_regular_file_is_not_adopted(tmp_path: Path) -> None:
    for folder in (tmp_path, Path("/dev/shm")):
        path = folder / f"weightd-test-{os.getpid()}"
        path.write_bytes(WORDS)
        fd = os.open(path, os.O_RDONLY)
        path.unlink()
        with pytest.raises(UnsealedSegmentError):
            Segment.adopt(fd)
        os.close(fd)


def test_an_empty_memfd_is_not_adopted() -> None:
    fd = new_memfd("empty")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    with pytest.raises(UnsealedSegmentError, match="empty"):
        Segment.adopt(fd)
    os.close(fd)


def test_views_keep_the_mapping_after_close(writable: int) -> None:
    segment = Segment.adopt(reopen_read_only(writable))
    data = segment.data
    segment.close()
    assert bytes(data[: len(WORDS)]) == WORDS


def test_the_callback_runs_exactly_when_the_last_view_goes(writable: int) -> None:
    calls: list[int] = []
    segment = Segment.adopt(reopen_read_only(writable))
    segment.when_unmapped(lambda: calls.append(1))
    whole = view(segment.data, "float32", (2, NBYTES // 8))
    views: list[object] = [
        whole,
        whole[1, 3:5],
        whole.reshape(-1).view("uint8"),
        segment.data[8:16],
    ]
    del whole
    segment.close()
    while views:
        assert not calls
        views.pop(0)
    assert calls == [1]


def test_a_numpy_view_cannot_be_made_writable(writable: int) -> None:
    with Segment.adopt(reopen_read_only(writable)) as segment:
        array = view(segment.data, "uint8", (NBYTES,))
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_more_than_the_budget_is_refused_before_anything_is_taken() -> None:
    fd = new_memfd("big")
    with pytest.raises(InsufficientMemoryError) as caught:
        Segment.allocate(fd, 10 * 2**20, budget_nbytes=4 * 2**20)
    for number in ("10.0 MiB", "4.0 MiB", "6.0 MiB are missing", "memory budget"):
        assert number in str(caught.value)
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)


def test_more_than_the_machine_has_is_refused_before_anything_is_taken() -> None:
    fd = new_memfd("huge")
    with pytest.raises(InsufficientMemoryError):
        Segment.allocate(fd, 2**50)
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)


def test_what_is_appended_is_seen_after_sealing() -> None:
    fd = new_memfd("grows")
    keep = os.dup(fd)
    segment = Segment.allocate(fd, 4096)
    assert segment.append(b"tail") == 4096
    assert segment.append(b"more") == 4100
    segment.seal()
    with Segment.adopt(keep) as sealed:
        assert sealed.nbytes == 4104
        assert bytes(sealed.data[4096:]) == b"tailmore"


def test_sealing_with_a_writable_view_left_fails_and_loses_nothing() -> None:
    segment = Segment.allocate(new_memfd("viewed"), 4096)
    data = segment.data
    with pytest.raises(BufferError):
        segment.seal()
    data.release()
    segment.seal()


def test_close_may_be_called_twice_and_use_afterwards_is_told() -> None:
    segment = Segment.allocate(new_memfd("closed"), 4096)
    segment.close()
    segment.close()
    with pytest.raises(ClosedError):
        _ = segment.data
    with pytest.raises(ClosedError):
        segment.fileno()


def test_the_memory_goes_back_when_nobody_holds_it(writable: int) -> None:
    segment = Segment.adopt(reopen_read_only(writable))
    name = open_descriptors()[segment.fileno()]
    segment.close()
    assert list(open_descriptors().values()).count(name) == 1  # the fixture's own


def test_a_reserved_segment_takes_what_is_needed_and_ends_where_it_is_cut() -> None:
    fd = new_memfd("reserved")
    keep = os.dup(fd)
    segment = Segment.reserve(fd, 2**40)
    assert os.fstat(fd).st_blocks == 0
    segment.need(NBYTES)
    assert os.fstat(fd).st_blocks >= NBYTES // 512
    with segment.data as data:
        data[:4] = b"here"
    segment.cut(NBYTES)
    assert (segment.nbytes, len(segment.data)) == (NBYTES, NBYTES)
    assert os.fstat(fd).st_blocks == NBYTES // 512
    assert segment.append(b"tail") == NBYTES
    segment.seal()
    with Segment.adopt(keep) as sealed:
        assert (bytes(sealed.data[:4]), bytes(sealed.data[-4:])) == (b"here", b"tail")


def test_a_segment_that_was_emptied_can_be_filled_anew() -> None:
    fd = new_memfd("again")
    Segment.reserve(os.dup(fd), NBYTES).empty()
    assert os.fstat(fd).st_size == 0
    segment = Segment.allocate(os.dup(fd), 4096)
    assert bytes(segment.data) == bytes(4096)
    segment.seal()
    os.close(fd)
