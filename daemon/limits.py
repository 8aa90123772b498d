"""How much of a thing a user, a process or a model may have. Pure: the time comes as an argument.

Each refusal says which limit, whose, and what to do.
"""

from collections.abc import Iterable, Mapping

import msgspec

from weightd.daemon.model import Grant, Lease, Model
from weightd.errors import LimitError
from weightd.ipc.peer import Key

GRANTS_PER_PROCESS = 8  # of one model: who is allowed again and again keeps the newest handles
LEASES_PER_PROCESS = 8  # of one model: a process with several sessions needs no more
BURST_S = 2.0  # of requests, that a user may have saved up
_FAVOUR = 10  # how many times as much admins may ask
_USERS = 4096  # one person may have 65,536 numbers
_NAMED = 8


def add_grant(model: Model, grant: Grant) -> None:
    """Add it, and forget the oldest of whoever has as many already."""
    for key in grant.processes:
        having = [other for other in model.grants if key in other.processes]
        for old in having[: max(0, len(having) + 1 - GRANTS_PER_PROCESS)]:
            del old.processes[key]
    model.grants = [*(other for other in model.grants if other.processes), grant]


def check_leases(leases: Iterable[Lease], model: Model, key: Key, uid: int, *, most: int) -> None:
    """LimitError when the process, or its user, has as many leases as may be."""
    of_process = of_user = 0
    for lease in leases:
        of_process += lease.model is model and lease.key == key
        of_user += lease.uid == uid
    if of_process >= LEASES_PER_PROCESS:
        raise LimitError(
            f"process {key.pid} has {of_process} leases of {model.name!r} already; close some"
        )
    if of_user >= most:
        raise LimitError(
            f"the processes of uid {uid} have {most} leases already, which is the limit "
            "(leases_per_uid); end some"
        )


def check_versions(model: Model, leases: Mapping[int, Lease], *, keep: int, most: int) -> None:
    """LimitError when one more version would be too many in memory. What would go when the next
    one is live does not count."""
    kept = set(model.was_live[-(keep - 1) :] if keep > 1 else ())
    staying = [v for v in model.versions.values() if v.leases or v.number in kept]
    if len(staying) < most:
        return
    live = model.live.number
    laggards = [
        f"process {leases[lease].pid} holds {version.number}"
        for version in staying
        if version.number != live
        for lease in sorted(version.leases)
    ]
    named = ", ".join(laggards[:_NAMED])
    others = f", and {len(laggards) - _NAMED} more" if len(laggards) > _NAMED else ""
    raise LimitError(
        f"{model.name!r} has {len(staying)} versions in memory that cannot go, and {most} is the "
        f"limit (versions_held). Old ones are held by workers that do not switch: {named}{others}. "
        f"End these (`weightd revoke {model.name} PID --kill`; `weightd ps` says why they lag), or "
        "raise the limit"
    )


class _Bucket(msgspec.Struct):
    left: float
    at_s: float


class Requests:
    """How many requests a user may make: so many a second, and those of two seconds at once. Admins
    may ten times as many."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._buckets: dict[int, _Bucket] = {}

    def take(self, uid: int, now_s: float, *, is_admin: bool) -> bool:
        """Count one request; whether it is within the limit."""
        per_s = self.per_s * (_FAVOUR if is_admin else 1)
        bucket = self._buckets.get(uid)
        if bucket is None:
            bucket = self._buckets[uid] = _Bucket(per_s * BURST_S, now_s)
            self._forget_some()
        gained = (now_s - bucket.at_s) * per_s
        bucket.left = min(per_s * BURST_S, bucket.left + gained)
        bucket.at_s = now_s
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    def check(self, uid: int, now_s: float, *, is_admin: bool) -> None:
        """LimitError when it is over the limit."""
        if not self.take(uid, now_s, is_admin=is_admin):
            raise LimitError(
                f"the processes of uid {uid} ask too often (requests_per_s_per_uid: "
                f"{self.per_s:g}); wait a moment"
            )

    def _forget_some(self) -> None:
        """Whoever came first goes first: his bucket has had the most time to fill."""
        while len(self._buckets) > _USERS:
            del self._buckets[next(iter(self._buckets))]
