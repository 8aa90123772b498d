"""What a daemon has counted since it began: plain data, for programs and the wire.

Every key is a word of weightd's own (a plane, a request, an error's class, an event), never a
peer's: so what is counted cannot grow with what peers send.
"""

from weightd.ipc.status import Part


class Histogram(Part, frozen=True):
    """How often values fell into each bucket. ends: the upper ends of all buckets but the last,
    which is open; counts: of each bucket alone; total: the sum of all values."""

    ends: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Counts(Part, frozen=True):
    """requests and refusals: by plane (control, attach, admin), then by request, or by the error
    that was the answer. events: by what an Event says. failures: of what was staged, by kind (load,
    publish, update), then by error. staging_s: how long those that did not fail took, by kind.
    switch_pause_us: as workers report it. notices: of new versions, sent to workers. not_switched:
    reports of workers that they stay on the version they have. unfit: reports of workers that a
    version does not suit them. evictions: connections of workers that were closed since they never
    attached. dropped: messages to the control socket whose sender the kernel does not name, and
    replies that nobody read.

    adoption_s: how long it took to adopt what an earlier daemon held; None when there was nothing.
    damaged_versions: that are held, and whose bytes are not what their digests say. cpu_s and
    resident_nbytes: of the daemon's process, by itself."""

    requests: dict[str, dict[str, int]]
    refusals: dict[str, dict[str, int]]
    events: dict[str, int]
    failures: dict[str, dict[str, int]]
    staging_s: dict[str, Histogram]
    switch_pause_us: Histogram
    notices: int
    not_switched: int
    unfit: int
    evictions: int
    dropped: int
    adoption_s: float | None
    adopted_versions: int
    refused_adoptions: int
    damaged_versions: int
    cpu_s: float
    resident_nbytes: int
