"""Floors without weightd: a descriptor passed from one process to another, and a memcpy."""

import mmap
import os
import socket
import time

import numpy as np

from weightd.weights.arrays import Array

FIRST_BYTES = b"\1" * 8


def attach(address: str) -> float:
    """Connect, get a descriptor, map it, look at its first bytes; returns the seconds."""
    started_s = time.perf_counter()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(address)
    sock.send(b"?")
    _, fds, _, _ = socket.recv_fds(sock, 64, 1)
    mapped = mmap.mmap(fds[0], 0, prot=mmap.PROT_READ)
    assert mapped[: len(FIRST_BYTES)] == FIRST_BYTES
    took_s = time.perf_counter() - started_s
    mapped.close()
    os.close(fds[0])
    sock.close()
    return took_s


def give_to_all(listener: socket.socket, nbytes: int) -> None:
    """Give a descriptor of `nbytes` to whoever connects; ends with the process."""
    fd = os.memfd_create("bare")
    os.ftruncate(fd, nbytes)
    with mmap.mmap(fd, nbytes) as mapped:
        np.frombuffer(mapped, np.uint8)[:] = 1
    while True:
        sock, _ = listener.accept()
        sock.recv(64)
        socket.send_fds(sock, [b"!"], [fd])
        sock.close()


def copy_into_fresh_memory(source: Array) -> None:
    """One memcpy by one thread, into shared memory that has no pages yet."""
    fd = os.memfd_create("bare")
    try:
        os.ftruncate(fd, source.nbytes)
        with mmap.mmap(fd, source.nbytes) as mapped:
            np.copyto(np.frombuffer(mapped, np.uint8), source)
    finally:
        os.close(fd)
