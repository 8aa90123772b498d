"""Attach: connect, be identified, get a descriptor, map it, read the manifest. No engine.

The floor is the least that any such thing must do: connect to another process, get a descriptor
of the same size by SCM_RIGHTS, map it, and look at its first bytes.
"""

import time
from collections.abc import Iterator
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
from weightd.weights.manifest import read_manifest

COPIES = 4  # of the bytes: the array, the offered file, the segment, the floor's own memory
_BAR = Bar(3.0)
_WARMUP = 20
_START_S = 20.0


def measure(place: Place, nbytes: int, rounds: int) -> Comparison:
    """With plain tensors of this size."""
    name = f"attach-{nbytes // MIB}"
    place.client.load(name, {"weights": np.ones(nbytes, np.uint8)})
    place.client.allow(name, place.client.current_pid())
    runtime = RuntimeFolder(place.client.runtime_dir)
    with _bare_server(place, nbytes) as address:
        ours, floor = in_turns(
            lambda: _attach(runtime, name),
            lambda: bare.attach(address),
            rounds=rounds,
            warmup=_WARMUP,
        )
    place.client.unload(name)
    what = f"attach, {nbytes // MIB} MiB"
    return Comparison("attach", what, "s", ours, floor, "bare exchange", _BAR)


def _attach(runtime: RuntimeFolder, name: str) -> float:
    started_s = time.perf_counter()
    with closing(Lease(runtime, timeout_s=10)) as lease:
        grant = lease.attach(name, None)
        data = grant.segments[0].data
        read_manifest(data)
        took_s = time.perf_counter() - started_s
        del data
        grant.close()
    return took_s


@contextmanager
def _bare_server(place: Place, nbytes: int) -> Iterator[str]:
    """The address of a process that gives a descriptor of `nbytes` to whoever connects."""
    address = str(place.folder / f"bare-{nbytes}.sock")
    argv = module_command("bare_server", address, nbytes)
    with closing(Child(f"bare-{nbytes}", argv, place.folder)) as child:
        child.receive(timeout_s=_START_S)
        yield address
