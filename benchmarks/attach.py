"""Attach: connect, be identified, get a descriptor, check its seals, map it. No engine.

The floor is the least that any such thing must do: connect to another process, get a descriptor
of the same size by SCM_RIGHTS, map it. Both look at the first bytes; a worker reads the manifest
then, which is a row of its own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np

from weightd.benchmarks import bare
from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.daemon import Place
from weightd.benchmarks.plan import MIB
from weightd.benchmarks.turns import in_turns
from weightd.benchmarks.workers import module_command
from weightd.demo.process import Child
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder
from weightd.weights.manifest import MAGIC, read_manifest

COPIES = 4  # of the bytes: the array, the offered file, the segment, the floor's own memory
_BAR = Bar(3.0)
Read = Callable[[memoryview], object]
_WARMUP = 20
_START_S = 20.0


def measure(place: Place, nbytes: int, rounds: int) -> Comparison:
    """With plain tensors of this size."""
    what = f"attach, {nbytes // MIB} MiB"
    return _measure(what, look, place, nbytes, rounds, _BAR)


def measure_manifest(place: Place, nbytes: int, rounds: int) -> Comparison:
    """The same, and what is in there is read and checked."""
    what = f"attach and manifest, {nbytes // MIB} MiB"
    return _measure(what, read_manifest, place, nbytes, rounds, None)


def _measure(
    what: str, read: Read, place: Place, nbytes: int, rounds: int, bar: Bar | None
) -> Comparison:
    name = f"attach-{nbytes // MIB}"
    place.client.load(name, {"weights": np.ones(nbytes, np.uint8)})
    place.client.allow(name, place.client.current_pid())
    runtime = RuntimeFolder(place.client.runtime_dir)
    with bare_server(place, nbytes) as address:
        ours, floor = in_turns(
            lambda: attach_once(runtime, name, read),
            lambda: bare.attach(address),
            rounds=rounds,
            warmup=_WARMUP,
        )
    place.client.unload(name)
    return Comparison("attach", what, "s", ours, floor, "bare exchange", bar)


def look(data: memoryview) -> None:
    assert data[: len(MAGIC)] == MAGIC


def attach_once(runtime: RuntimeFolder, name: str, read: Read = look) -> float:
    """Attach, read what is mapped, detach; returns the seconds of all but the last."""
    started_s = time.perf_counter()
    with closing(Lease(runtime, timeout_s=10)) as lease:
        grant = lease.attach(name, None)
        data = grant.segments[0].data
        read(data)
        took_s = time.perf_counter() - started_s
        del data
        grant.close()
    return took_s


@contextmanager
def bare_server(place: Place, nbytes: int) -> Iterator[str]:
    """The address of a process that gives a descriptor of `nbytes` to whoever connects."""
    address = str(place.folder / f"bare-{nbytes}.sock")
    argv = module_command("bare_server", address, nbytes)
    with closing(Child(f"bare-{nbytes}", argv, place.folder)) as child:
        child.receive(timeout_s=_START_S)
        yield address
