"""Verify: how fast resident bytes are compared with their digests.

The floor is xxh3 over the same bytes, in a loop in this process, which has them mapped already.
Between the two are a process that starts, and the copy that pread makes into the cache.
"""

from functools import partial

import numpy as np
from xxhash import xxh3_128

from weightd.benchmarks.comparison import Comparison
from weightd.benchmarks.daemon import Place
from weightd.benchmarks.plan import MIB
from weightd.benchmarks.turns import in_turns, seconds_of
from weightd.weights.arrays import Array

COPIES = 4  # of the bytes: the array, what the client sends, the version, and some room
_TENSORS = 16
_GIB = 2**30


def measure(place: Place, nbytes: int, rounds: int) -> Comparison:
    """The rate of one model of this size, from the request to the answer."""
    name = f"verify-{nbytes // MIB}"
    source = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    parts = np.split(source, _TENSORS)
    place.client.load(name, {f"t{i}": part for i, part in enumerate(parts)})
    ours, floor = in_turns(
        lambda: nbytes / _GIB / seconds_of(partial(place.client.verify, name)),
        lambda: nbytes / _GIB / seconds_of(partial(_hash_all, parts)),
        rounds=rounds,
        warmup=1,
    )
    place.client.unload(name)
    what = f"verify, {nbytes // MIB} MiB of tensors"
    return Comparison("verify", what, "GiB/s", ours, floor, "xxh3 in a loop")


def _hash_all(parts: list[Array]) -> None:
    for part in parts:
        xxh3_128(part.data).digest()
