"""source.py, sniff.py and file.py: which reader, what is refused, and reads that fail typed.

open_bytes() and read() serve the tests of the readers themselves, too.
"""

import fcntl
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from weightd.errors import (
    BadFileError,
    ClosedError,
    UnknownTensorError,
    UnsealedSegmentError,
    UsageError,
)
from weightd.weights.file import MAX_CHUNK_NBYTES
from weightd.weights.safetensors import write_safetensors
from weightd.weights.source import Source, open_source

DATA = Path(__file__).parent.parent / "weightd" / "data"
MANY = np.arange(1000, dtype=np.float32)


def open_path(path: Path, *, folder: Path | None = None) -> Source:
    """The source for a file; its descriptor is closed again, as any caller may do."""
    fds = [os.open(path, os.O_RDONLY | os.O_NONBLOCK)]
    if folder is not None:
        fds.append(os.open(folder, os.O_RDONLY))
    try:
        return open_source(
            fds[0], file_name=path.name, folder_fd=fds[1] if folder is not None else None
        )
    finally:
        for fd in fds:
            os.close(fd)


def open_bytes(folder: Path, raw: bytes) -> Source:
    path = folder / "offered.bin"
    path.write_bytes(raw)
    return open_path(path)


def read(source: Source, name: str) -> bytes:
    raw = bytearray(source.tensors[name].nbytes)
    source.read_into(name, memoryview(raw))
    return bytes(raw)


def many_in_safetensors(folder: Path) -> Path:
    path = folder / "many.safetensors"
    with open(write_safetensors({"many": MANY}, name="many"), "rb") as memory:
        path.write_bytes(memory.read())
    return path


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("lenet5.onnx", "onnx"), ("lenet5_early.safetensors", "safetensors")],
)
def test_the_format_is_told_from_the_content_not_the_name(
    tmp_path: Path, name: str, format_name: str
) -> None:
    disguised = tmp_path / "model.txt"
    disguised.write_bytes((DATA / name).read_bytes())
    with open_path(disguised) as source:
        assert source.format == format_name
        assert len(source.tensors) == 8


def zipped(name: str, content: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(name, content)
    return raw.getvalue()


NOT_READ: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty; weightd reads safetensors, npz"),
    "text": (b"hello, this is a text file\n", "no format that is known here; weightd reads"),
    "zeros": (bytes(4096), "no format that is known"),
    "one byte": (b"\x08", "no format that is known"),
    "pickle": (b"\x80\x02}q\x00.", "pickle .* never unpickled"),
    "torch": (zipped("archive/data.pkl", b"\x80\x02."), "PyTorch .* never unpickled"),
    "npy": (b"\x93NUMPY\x01\x00", "save it with numpy.savez"),
    "encrypted": (b"\xd8\x5e\x3a\x7f" + bytes(64), "encrypted MindSpore file"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "GGUF"),
    "gzip": (b"\x1f\x8b\x08\x00", "unpack it first"),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_a_file_that_is_not_read_is_refused_and_says_what_is(tmp_path: Path, kind: str) -> None:
    raw, message = NOT_READ[kind]
    with pytest.raises(BadFileError, match=message):
        open_bytes(tmp_path, raw)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="is a directory"):
        open_path(tmp_path)


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadFileError, match="not a regular file"):
        open_path(tmp_path / "fifo")


def test_a_descriptor_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(BadFileError, match="not open for reading"):
        open_source(fd, file_name="written")
    os.close(fd)


def test_the_callers_position_is_left_alone() -> None:
    fd = os.open(DATA / "lenet5_early.safetensors", os.O_RDONLY)
    os.lseek(fd, 7, os.SEEK_SET)
    with open_source(fd, file_name="lenet5") as source:
        read(source, "fc3.bias")
    assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    os.close(fd)


# --- sealed memory ------------------------------------------------------------------------


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE])
def test_memory_that_can_still_change_is_refused(seals: int) -> None:
    fd = os.memfd_create("offered", os.MFD_ALLOW_SEALING)
    os.write(fd, (DATA / "lenet5_early.safetensors").read_bytes())
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(UnsealedSegmentError, match="F_SEAL_SHRINK and F_SEAL_WRITE"):
        open_source(fd, file_name="offered")
    os.close(fd)


def test_a_file_in_shared_memory_that_is_no_memfd_is_read() -> None:
    path = Path("/dev/shm") / f"weightd-test-{os.getpid()}"
    path.write_bytes((DATA / "lenet5_early.safetensors").read_bytes())
    try:
        with open_path(path) as source:
            assert len(source.tensors) == 8
    finally:
        path.unlink()


# --- reading ------------------------------------------------------------------------------


def test_a_file_that_shrinks_while_it_is_read_is_a_typed_error(tmp_path: Path) -> None:
    path = many_in_safetensors(tmp_path)
    with open_path(path) as source:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(BadFileError, match="the file was truncated: tensor 'many' needs byte"):
            read(source, "many")


def test_each_chunk_is_seen_once_and_in_order() -> None:
    large = np.arange(2 * MAX_CHUNK_NBYTES // 4 + 1, dtype=np.uint32)
    seen: list[bytes] = []
    target = bytearray(large.nbytes)
    fd = write_safetensors({"large": large}, name="large")
    with open_source(fd, file_name="large") as source:
        source.read_into("large", memoryview(target), lambda chunk: seen.append(bytes(chunk)))
    os.close(fd)
    assert [len(chunk) for chunk in seen] == [MAX_CHUNK_NBYTES, MAX_CHUNK_NBYTES, 4]
    assert b"".join(seen) == target == large.tobytes()


def test_a_target_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    with open_path(many_in_safetensors(tmp_path)) as source:
        with pytest.raises(UsageError, match="4000 bytes, not 3999"):
            source.read_into("many", memoryview(bytearray(3999)))
        with pytest.raises(UsageError, match="read-only"):
            source.read_into("many", memoryview(bytes(4000)))


def test_the_target_may_be_an_array(tmp_path: Path) -> None:
    target = np.zeros((10, 100), np.float32)
    with open_path(many_in_safetensors(tmp_path)) as source:
        source.read_into("many", target.data)
    assert np.array_equal(target.reshape(-1), MANY)


def test_an_unknown_tensor_is_a_typed_error(tmp_path: Path) -> None:
    with open_path(many_in_safetensors(tmp_path)) as source, pytest.raises(UnknownTensorError):
        source.read_into("few", memoryview(bytearray(1)))


def test_a_source_closes_once_and_stays_closed(tmp_path: Path) -> None:
    source = open_path(many_in_safetensors(tmp_path))
    source.close()
    source.close()
    with pytest.raises(ClosedError, match="was closed; open it again"):
        read(source, "many")


def test_a_refused_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for kind, (raw, _) in NOT_READ.items():
        with pytest.raises(BadFileError):
            open_bytes(tmp_path, raw)
        assert os.listdir("/proc/self/fd") == before, kind
