"""slots.py: one whole value at any moment, and damage that is told."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightd.errors import DamagedStateError, LimitError, NewerFormatError
from weightd.ipc import slots
from weightd.ipc.segment import new_memfd
from weightd.ipc.slots import LAYOUT, SLOT_NBYTES, Slots

GROWN_UP = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
WORD, FIRST, SECOND = 64, 4096 + SLOT_NBYTES, 4096  # commit 1 lies in the second slot
SIZE_FIELD, DIGEST_FIELD, BYTES = 8, 16, 32


class Cut(Exception):  # noqa: N818 - the process is gone: nothing goes wrong
    """Stands for SIGKILL."""


@pytest.fixture
def written() -> Iterator[Slots]:
    """Holds b'one' in commit 1 and b'two' in commit 2."""
    made = Slots.new("weightd:test")
    made.commit(b"one")
    made.commit(b"two")
    yield made
    made.close()


def reread(fd: int) -> bytes:
    """What a process finds there that has the memory and nothing else."""
    adopted = Slots.adopt(os.dup(fd))
    try:
        return adopted.value
    finally:
        adopted.close()


def refusal(fd: int) -> str:
    """Why it is not adopted; the descriptor stays the caller's."""
    with pytest.raises(DamagedStateError) as error:
        Slots.adopt(fd)
    os.fstat(fd)
    return str(error.value)


def test_what_was_committed_last_is_found_by_the_next_process(written: Slots) -> None:
    assert reread(written.fileno()) == b"two"
    adopted = Slots.adopt(os.dup(written.fileno()))
    adopted.commit(b"three" * 1000)
    adopted.close()
    assert reread(written.fileno()) == b"three" * 1000


def test_new_ones_hold_nothing_and_so_does_an_empty_value() -> None:
    made = Slots.new("weightd:test")
    assert reread(made.fileno()) == b""
    made.commit(b"")
    assert reread(made.fileno()) == b""
    made.close()


def test_close_may_be_called_twice(written: Slots) -> None:
    written.close()
    written.close()


def test_a_process_killed_between_slot_and_word_leaves_the_value_before(
    written: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise Cut

    monkeypatch.setattr(Slots, "_turn", cut)
    with pytest.raises(Cut):
        written.commit(b"three")
    assert reread(written.fileno()) == b"two"
    monkeypatch.undo()
    adopted = Slots.adopt(os.dup(written.fileno()))
    adopted.commit(b"four")
    adopted.close()
    assert reread(written.fileno()) == b"four"


@given(st.lists(st.tuples(st.binary(max_size=200), st.integers(0, 4)), max_size=12))
def test_any_commits_cut_after_any_write_leave_a_value_whole(
    commits: list[tuple[bytes, int]],
) -> None:
    """Each commit is made by a process of its own, which is killed after so many writes (of at
    most 100 bytes each)."""
    made = Slots.new("weightd:test")
    value = b""
    try:
        for new, after in commits:
            writes = -(-(BYTES + len(new)) // 100) + 1  # the last one is the word
            adopted = Slots.adopt(os.dup(made.fileno()))
            with pytest.MonkeyPatch.context() as patch, suppress(Cut):
                patch.setattr(slots, "os", _Writing(after))
                adopted.commit(new)
            adopted.close()
            value = new if after >= writes else value
            assert reread(made.fileno()) == value
    finally:
        made.close()


class _Writing:
    """The module os to a process that is killed after so many writes."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def pwrite(self, fd: int, raw: bytes, offset: int) -> int:
        if not self._left:
            raise Cut
        self._left -= 1
        return os.pwrite(fd, memoryview(raw)[:100], offset)


def test_a_value_that_does_not_fit_is_refused_and_changes_nothing(written: Slots) -> None:
    with pytest.raises(LimitError, match=f"there is room for {SLOT_NBYTES}"):
        written.commit(bytes(SLOT_NBYTES - BYTES + 1))
    assert (written.value, reread(written.fileno())) == (b"two", b"two")
    largest = bytes(SLOT_NBYTES - BYTES)
    written.commit(largest)
    assert reread(written.fileno()) == largest


# --- damage ------------------------------------------------------------------------------


def test_what_is_no_memfd_is_refused() -> None:
    read_end, write_end = os.pipe()
    assert refusal(read_end) == "it is not a memfd"
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(("nbytes", "seals"), [(8192, GROWN_UP), (4096 + 2 * SLOT_NBYTES, 0)])
def test_memory_of_another_size_or_that_could_shrink_is_refused(nbytes: int, seals: int) -> None:
    fd = new_memfd("weightd:test")
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    assert "not of the size and the seals" in refusal(fd)
    os.close(fd)


def test_a_state_that_could_not_be_written_any_more_is_refused(written: Slots) -> None:
    fd = os.open(f"/proc/self/fd/{written.fileno()}", os.O_RDONLY)
    assert "cannot be written" in refusal(fd)
    os.close(fd)
    fd = new_memfd("weightd:test")
    os.ftruncate(fd, 4096 + 2 * SLOT_NBYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, GROWN_UP | fcntl.F_SEAL_WRITE)
    assert "cannot be written" in refusal(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("raw", "offset", "reason"),
    [
        (b"WEIGHTD1", 0, "does not begin as a state does"),
        (struct.pack("<Q", LAYOUT - 1), 8, f"layout {LAYOUT - 1}.*by an older one"),
        (struct.pack("<Q", 3), WORD, "slot 1 holds commit 1, not 3"),
        (struct.pack("<Q", 2**64 - 1), WORD, "holds commit 1, not 18446744073709551615"),
        (struct.pack("<Q", 4), SECOND, "slot 0 holds commit 4, not 2"),
        (struct.pack("<Q", 2**63), SECOND + SIZE_FIELD, "more than fits"),
        (struct.pack("<Q", SLOT_NBYTES), SECOND + SIZE_FIELD, "more than fits"),
        (struct.pack("<Q", 2), SECOND + SIZE_FIELD, "does not have its digest"),
        (b"\0", SECOND + DIGEST_FIELD, "does not have its digest"),
        (b"T", SECOND + BYTES, "commit 2 wrote does not have its digest"),
    ],
)
def test_wrong_bytes_are_told_and_not_adopted(
    written: Slots, raw: bytes, offset: int, reason: str
) -> None:
    before = os.pread(written.fileno(), len(raw), offset)
    assert raw != before
    os.pwrite(written.fileno(), raw, offset)
    with pytest.raises(DamagedStateError, match=reason):
        Slots.adopt(written.fileno())
    os.pwrite(written.fileno(), before, offset)
    assert reread(written.fileno()) == b"two"


def test_a_newer_layout_is_no_damage(written: Slots) -> None:
    os.pwrite(written.fileno(), struct.pack("<Q", LAYOUT + 1), 8)
    with pytest.raises(NewerFormatError, match=f"layout {LAYOUT + 1}"):
        Slots.adopt(written.fileno())


def test_damage_to_the_value_before_is_nobodys_concern(written: Slots) -> None:
    os.pwrite(written.fileno(), b"xxx", FIRST + BYTES)
    assert reread(written.fileno()) == b"two"
