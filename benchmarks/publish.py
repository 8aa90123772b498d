"""Publish: from a safetensors file in the page cache to a live version.

The floor is one memcpy of the same bytes into fresh shared memory, by one thread.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import weightd
from benchmarks.comparison import Comparison, in_turns, seconds_of
from benchmarks.daemon import running_daemon
from weightd.ipc import memory
from weightd.weights.arrays import Array
from weightd.weights.safetensors import write_safetensors

MIB = 2**20
GIB = 2**30
SIZES = (64 * MIB, 256 * MIB)
TENSORS = 16
ROUNDS = 5
BAR = 0.5
_COPIES = 5  # the array, the file, two versions, the floor's own memory


def compare() -> list[Comparison]:
    room = memory.available().nbytes
    with running_daemon() as client:
        return [_of_size(client, nbytes) for nbytes in SIZES if _COPIES * nbytes < room]


def _of_size(client: weightd.Client, nbytes: int) -> Comparison:
    name = f"m{nbytes // MIB}"
    source = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    with _file_of(source) as path:
        client.load(name, path)
        ours, floor = in_turns(
            lambda: nbytes / GIB / seconds_of(partial(client.publish, name, path)),
            lambda: nbytes / GIB / seconds_of(partial(_copy_into_fresh_memory, source)),
            rounds=ROUNDS,
        )
    client.unload(name)
    what = f"publish, {nbytes // MIB} MiB"
    return Comparison(what, "GiB/s", "memcpy", ours, floor, BAR, higher_is_better=True)


@contextmanager
def _file_of(source: Array) -> Iterator[Path]:
    """A safetensors file that was just written, so that it is in the page cache."""
    tensors = {f"t{i}": part for i, part in enumerate(np.split(source, TENSORS))}
    with tempfile.TemporaryDirectory(prefix="weightd-bench-") as folder:
        path = Path(folder) / "weights.safetensors"
        fd = write_safetensors(tensors, name="bench")
        with open(fd, "rb") as packed, path.open("wb") as file:
            file.write(packed.read())
        yield path


def _copy_into_fresh_memory(source: Array) -> None:
    fd = os.memfd_create("bare")
    try:
        os.ftruncate(fd, source.nbytes)
        with mmap.mmap(fd, source.nbytes) as mapped:
            np.copyto(np.frombuffer(mapped, np.uint8), source)
    finally:
        os.close(fd)
