"""What a daemon tells at one moment, and what follows from it. For whoever watches: the exporter,
and `weightd top`."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightd.ipc.cgroup import shmem_nbytes

if TYPE_CHECKING:
    from weightd.client import Client
    from weightd.ipc.counts import Counts
    from weightd.ipc.protocol import DaemonStatus


@dataclass(frozen=True)
class Reading:
    """A daemon's status and counts. at_s: when, on the monotonic clock; took_s: how long the daemon
    took to answer."""

    status: "DaemonStatus"
    counts: "Counts"
    at_s: float
    took_s: float

    @property
    def saved_nbytes(self) -> int:
        """What the workers would take more if each had a copy of each version that it holds."""
        versions = [v for m in self.status.models.values() for v in m.versions]
        return sum(max(0, v.leases - 1) * v.nbytes for v in versions)

    @property
    def leases(self) -> "Counter[str]":
        """How many workers each model has; one that was unloaded has them, too."""
        return Counter(worker.model for worker in self.status.workers)

    @property
    def lagging(self) -> "Counter[str]":
        """How many workers of each model do not run its live version."""
        return Counter(worker.model for worker in self.status.workers if worker.lag)


def take(client: "Client") -> Reading:
    """Ask the daemon: two requests."""
    began_s = time.monotonic()
    status, counts = client.status(), client.counters()
    at_s = time.monotonic()
    return Reading(status, counts, at_s, at_s - began_s)


def held_elsewhere_nbytes(status: "DaemonStatus") -> int | None:
    """Shared memory that the daemon's cgroup is charged with, beyond all that the daemon holds:
    freed versions that a process still maps, or whose descriptor it passed on. None where it cannot
    be told: the cgroup is not the daemon's alone or not to be seen from here, and while a version
    is being filled."""
    if status.staging:
        return None
    found = shmem_nbytes(status.pid)
    return None if found is None else max(0, found - status.held_nbytes)
