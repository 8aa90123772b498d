"""Tensors in files: a model's own weights, others for it, and inputs on their way to a worker."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from weightd.weights.arrays import Array, numpy_dtype
from weightd.weights.safetensors import write_safetensors
from weightd.weights.source import open_source
from weightd.weights.wire import length_field, varint

_FACTOR = 1.03125  # exact in every float dtype that has five bits of fraction
_SMALL = 64  # elements; fewer are shapes, axes and other constants, and stay


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a file that weightd reads."""
    with ExitStack() as stack:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder_fd)
        source = stack.enter_context(open_source(fd, file_name=path.name, folder_fd=folder_fd))
        tensors = {s.name: np.empty(s.shape, numpy_dtype(s.dtype)) for s in source.tensors.values()}
        for name, tensor in tensors.items():
            source.read_into(name, tensor.reshape(-1).view(np.uint8).data)
        return tensors


def write_tensors(tensors: dict[str, Array], target: Path) -> None:
    """Write a safetensors file."""
    fd = write_safetensors(tensors, name=target.stem)
    with open(fd, "rb") as packed, target.open("wb") as file:
        nbytes = os.fstat(fd).st_size
        while nbytes:
            nbytes -= os.sendfile(file.fileno(), packed.fileno(), None, nbytes)


def write_checkpoint(tensors: dict[str, Array], target: Path) -> None:
    """Write a MindSpore checkpoint of uint8 tensors."""
    with target.open("wb") as file:
        for name, tensor in tensors.items():
            head = b"\x08" + varint(tensor.size) + length_field(2, b"UInt8")
            head += b"\x1a" + varint(tensor.nbytes)
            tag = length_field(1, name.encode())
            inner = varint(len(head) + tensor.nbytes)
            nbytes = len(tag) + 1 + len(inner) + len(head) + tensor.nbytes
            file.write(b"\x0a" + varint(nbytes) + tag + b"\x12" + inner + head)
            file.write(tensor.data)


def write_mindir(tensors: dict[str, Array], target: Path) -> None:
    """Write a MindIR file of uint8 parameters, and no operators."""
    heads = [
        b"\x08" + varint(tensor.size) + b"\x10\x02" + length_field(7, b"net:" + name.encode())
        + length_field(13, name.encode()) + b"\x4a" + varint(tensor.nbytes)
        for name, tensor in tensors.items()
    ]  # fmt: skip
    framed = [
        b"\x1a" + varint(len(head) + tensor.nbytes) + head
        for head, tensor in zip(heads, tensors.values(), strict=True)
    ]
    rest = length_field(2, b"net") + length_field(6, length_field(1, b"net:t0"))
    nbytes = len(rest) + sum(map(len, framed)) + sum(t.nbytes for t in tensors.values())
    with target.open("wb") as file:
        file.write(length_field(1, b"1.1") + length_field(2, b"MindSpore"))
        file.write(b"\x3a" + varint(nbytes) + rest)
        for head, tensor in zip(framed, tensors.values(), strict=True):
            file.write(head)
            file.write(tensor.data)


WRITERS = {"safetensors": write_tensors, "ckpt": write_checkpoint, "mindir": write_mindir}


def write_other_weights(model: Path, target: Path) -> int:
    """Write a model's weights, all a little larger; returns how many bytes they are."""
    tensors = read_tensors(model)
    for tensor in tensors.values():
        if tensor.dtype.kind in "fV" and tensor.size >= _SMALL:  # numpy says V of bfloat16
            np.multiply(tensor, tensor.dtype.type(_FACTOR), out=tensor)
    write_tensors(tensors, target)
    return sum(tensor.nbytes for tensor in tensors.values())
