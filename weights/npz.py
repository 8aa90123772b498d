"""npz: a zip of .npy members, as numpy.savez and savez_compressed write it. Nothing is unpickled.

A stored member is read in place; a deflated one is inflated straight into the target, up to the
size that its .npy header declares and no byte further.
"""

import io
import itertools
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from weightd.errors import BadFileError
from weightd.weights.arrays import dtype_name, view
from weightd.weights.file import MAX_CHUNK_NBYTES, InputFile, OnChunk
from weightd.weights.source import Source, TensorSpec, checked_specs

SUFFIX = ".npy"
READ_NBYTES = 1024 * 1024
MAX_NPY_HEADER_NBYTES = 64 * 1024  # numpy itself reads none above 10,000 characters
ENCRYPTED = 0x1
MAX_RATIO = 1032  # of deflate
_LOCAL_HEADER = struct.Struct("<4s22sHH")

# What zipfile raises for broken directories, besides its own BadZipFile.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)

# And numpy for broken .npy headers, which it reads as Python literals.
_NPY_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)


class Member(NamedTuple):
    """One array: its zip entry, where that one's data lies in the file, and its .npy header."""

    info: zipfile.ZipInfo
    offset: int
    spec: TensorSpec
    is_fortran: bool
    header_nbytes: int


class NpzSource(Source):
    """An npz file; every member's header is read when it is opened."""

    format = "npz"

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        infos = _directory(file)
        if not infos:
            raise BadFileError(f"{file.name} holds no tensors")
        members = [_member(file, info) for info in infos]
        _check_apart(file.name, members)
        self.tensors = checked_specs(file.name, (member.spec for member in members))
        self._members = {member.spec.name: member for member in members}

    def _read(self, spec: TensorSpec, target: memoryview, on_chunk: OnChunk | None) -> None:
        member = self._members[spec.name]
        if not member.is_fortran or len(spec.shape) < 2:
            _fill(self._file, member, target, on_chunk)
            return
        columns = bytearray(spec.nbytes)
        _fill(self._file, member, memoryview(columns), None)
        array = view(memoryview(columns), spec.dtype, spec.shape[::-1]).T
        np.copyto(np.ndarray(spec.shape, array.dtype, buffer=target), array)
        if on_chunk is not None:
            for start in range(0, len(target), MAX_CHUNK_NBYTES):
                on_chunk(target[start : start + MAX_CHUNK_NBYTES])


def _directory(file: InputFile) -> list[zipfile.ZipInfo]:
    try:
        with file.stream() as stream, zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except _ZIP_ERRORS as error:
        raise BadFileError(f"{file.name}: the zip directory is broken: {error}") from error
    if any(info.filename.endswith("data.pkl") for info in infos):
        raise BadFileError(
            f"{file.name} is a PyTorch file, a zip with a pickle, which is never unpickled; "
            "save it as safetensors"
        )
    return infos


def _member(file: InputFile, info: zipfile.ZipInfo) -> Member:
    of = f"{file.name}: member {info.filename[:64]!r}"
    if not info.filename.endswith(SUFFIX):
        raise BadFileError(f"{of} is not a {SUFFIX} array; an npz file holds nothing else")
    if info.flag_bits & ENCRYPTED:
        raise BadFileError(f"{of} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFileError(f"{of} uses compression {info.compress_type}; only deflate is read")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise BadFileError(f"{of} is stored, but its two sizes differ")
    if info.file_size > info.compress_size * MAX_RATIO + MAX_RATIO:
        raise BadFileError(
            f"{of} claims {info.file_size} bytes out of {info.compress_size}, "
            "which deflate cannot do"
        )
    offset = _data_offset(file, info, of)
    return _with_header(file, info, offset, of)


def _data_offset(file: InputFile, info: zipfile.ZipInfo, of: str) -> int:
    raw = file.read(info.header_offset, _LOCAL_HEADER.size, f"the header of {info.filename!r}")
    magic, _, name_nbytes, extra_nbytes = _LOCAL_HEADER.unpack(raw)
    if magic != b"PK\x03\x04":
        raise BadFileError(f"{of} is not where the zip directory says")
    offset: int = info.header_offset + _LOCAL_HEADER.size + name_nbytes + extra_nbytes
    file.check_range(offset, info.compress_size, f"member {info.filename!r}")
    return offset


def _with_header(file: InputFile, info: zipfile.ZipInfo, offset: int, of: str) -> Member:
    head = io.BytesIO(b"".join(_inflated(file, info, offset, MAX_NPY_HEADER_NBYTES)))
    try:
        shape, is_fortran, dtype = _npy_header(head)
    except _NPY_ERRORS as error:
        raise BadFileError(f"{of} has a bad .npy header: {error}") from error
    if dtype.hasobject:
        raise BadFileError(f"{of} holds Python objects, which are never unpickled")
    try:
        dtype_text = dtype_name(dtype)
    except BadFileError as error:
        raise BadFileError(f"{of}: {error}") from error
    spec = TensorSpec(info.filename.removesuffix(SUFFIX), dtype_text, shape)
    if head.tell() + spec.nbytes != info.file_size:
        raise BadFileError(
            f"{of} declares {dtype_text}{list(shape)}, which is {spec.nbytes} bytes; "
            f"the zip directory has {info.file_size - head.tell()} for it"
        )
    return Member(info, offset, spec, is_fortran, head.tell())


def _npy_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers written by Python 2 are as good as any
        version = npy.read_magic(head)
        if version == (1, 0):
            return npy.read_array_header_1_0(head)
        if version == (2, 0):
            return npy.read_array_header_2_0(head)
    raise ValueError(f"version {version} is not one that plain arrays have")


def _check_apart(file_name: str, members: list[Member]) -> None:
    # Members that share bytes are how a small zip claims to hold petabytes.
    ordered = sorted(members, key=lambda member: member.info.header_offset)
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.info.compress_size > after.info.header_offset:
            raise BadFileError(
                f"{file_name}: members {before.info.filename!r} and {after.info.filename!r} overlap"
            )


def _fill(file: InputFile, member: Member, target: memoryview, on_chunk: OnChunk | None) -> None:
    """Fill the target with the member's bytes after its .npy header, and check them all."""
    if member.info.compress_type == zipfile.ZIP_STORED:
        crc = _fill_stored(file, member, target, on_chunk)
    else:
        crc = _fill_deflated(file, member, target, on_chunk)
    if crc != member.info.CRC:
        raise BadFileError(f"{file.name}: member {member.info.filename!r} is damaged: wrong CRC")


def _fill_stored(
    file: InputFile, member: Member, target: memoryview, on_chunk: OnChunk | None
) -> int:
    what = f"tensor {member.spec.name!r}"
    crc = zlib.crc32(file.read(member.offset, member.header_nbytes, what))

    def check(piece: memoryview) -> None:
        nonlocal crc
        crc = zlib.crc32(piece, crc)
        if on_chunk is not None:
            on_chunk(piece)

    file.read_into(member.offset + member.header_nbytes, target, what, check)
    return crc


def _fill_deflated(
    file: InputFile, member: Member, target: memoryview, on_chunk: OnChunk | None
) -> int:
    what = f"{file.name}: member {member.info.filename!r}"
    crc, skip, at = 0, member.header_nbytes, 0
    for inflated in _inflated(file, member.info, member.offset, member.info.file_size + 1):
        crc = zlib.crc32(inflated, crc)
        piece = inflated[skip:]
        skip -= len(inflated) - len(piece)
        if at + len(piece) > len(target):
            raise BadFileError(f"{what} inflates to more than the {len(target)} bytes it declares")
        target[at : at + len(piece)] = piece
        if on_chunk is not None and piece:
            on_chunk(target[at : at + len(piece)])
        at += len(piece)
    if at < len(target):
        raise BadFileError(f"{what} inflates to {at} bytes; it declares {len(target)}")
    return crc


def _inflated(
    file: InputFile, info: zipfile.ZipInfo, offset: int, max_nbytes: int
) -> Iterator[bytes]:
    """The member's bytes from its start on, in pieces, at most `max_nbytes` of them."""
    what = f"member {info.filename!r}"
    if info.compress_type == zipfile.ZIP_STORED:
        yield file.read(offset, min(info.file_size, max_nbytes), what)
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left, end = max_nbytes, offset + info.compress_size
    while left and not inflater.eof:
        raw = inflater.unconsumed_tail
        if not raw:
            raw = file.read(offset, min(READ_NBYTES, end - offset), what)
            offset += len(raw)
        try:
            piece = inflater.decompress(raw, min(left, READ_NBYTES))
        except zlib.error as error:
            raise BadFileError(f"{file.name}: {what} does not inflate: {error}") from error
        if not raw and not piece:
            return
        left -= len(piece)
        yield piece
