"""Attach: connect, be identified, get a descriptor, map it, read the manifest. No engine.

The floor is the least that any such thing must do: connect to another process, get a descriptor
of the same size by SCM_RIGHTS, map it, and look at its first bytes.
"""

import mmap
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import weightd
from benchmarks.comparison import Comparison, in_turns
from benchmarks.daemon import running_daemon
from weightd.ipc import memory
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder
from weightd.weights.manifest import read_manifest

MIB = 2**20
SIZES = (MIB, 64 * MIB, 1024 * MIB)
ROUNDS = 400
BAR = 3.0
_US = 1e6
_COPIES = 4  # the array, the offered file, the segment, the floor's own memory


def compare() -> list[Comparison]:
    room = memory.available().nbytes
    with running_daemon() as client:
        return [_of_size(client, nbytes) for nbytes in SIZES if _COPIES * nbytes < room]


def _of_size(client: weightd.Client, nbytes: int) -> Comparison:
    name = f"m{nbytes // MIB}"
    client.load(name, {"weights": np.ones(nbytes, np.uint8)})
    client.allow(name, client.current_pid())
    folder = RuntimeFolder(client.runtime_dir)
    with _bare_server(nbytes) as address:
        ours, floor = in_turns(
            lambda: _attach(folder, name), lambda: _bare(address), rounds=ROUNDS, warmup=20
        )
    client.unload(name)
    what = f"attach, {nbytes // MIB} MiB"
    return Comparison(what, "µs", "bare exchange", ours, floor, BAR)


def _attach(folder: RuntimeFolder, name: str) -> float:
    started = time.perf_counter()
    lease = Lease(folder, timeout_s=10)
    grant = lease.attach(name, None)
    data = grant.segments[0].data
    read_manifest(data)
    took_s = time.perf_counter() - started
    del data
    grant.close()
    lease.close()
    return took_s * _US


def _bare(address: str) -> float:
    started = time.perf_counter()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(address)
    sock.send(b"?")
    _, fds, _, _ = socket.recv_fds(sock, 64, 1)
    mapped = mmap.mmap(fds[0], 0, prot=mmap.PROT_READ)
    assert mapped[:8] == b"\1" * 8
    took_s = time.perf_counter() - started
    mapped.close()
    os.close(fds[0])
    sock.close()
    return took_s * _US


@contextmanager
def _bare_server(nbytes: int) -> Iterator[str]:
    """The address of a process that gives a descriptor of `nbytes` to whoever connects."""
    with tempfile.TemporaryDirectory(prefix="weightd-bench-") as folder:
        address = str(Path(folder) / "bare.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(16)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_give_to_all, args=(listener, nbytes), daemon=True)
        process.start()
        listener.close()
        try:
            yield address
        finally:
            process.kill()
            process.join()


def _give_to_all(listener: socket.socket, nbytes: int) -> None:
    fd = os.memfd_create("bare")
    os.ftruncate(fd, nbytes)
    with mmap.mmap(fd, nbytes) as mapped:
        np.frombuffer(mapped, np.uint8)[:] = 1
    while True:
        sock, _ = listener.accept()
        sock.recv(64)
        socket.send_fds(sock, [b"!"], [fd])
        sock.close()
