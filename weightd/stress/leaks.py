"""What daemon and keeper have: to be the same, but for a little memory, at the end of a run."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightd.stress.findings import Findings
from weightd.stress.stage import Stage, status_of

_SETTLE_S = 20.0
_GONE_S = 0.2  # what our own look needed
_KINDS = {
    "/memfd:": "memfds",
    "socket:": "sockets",
    "anon_inode:[pidfd": "pidfds",
    "pidfd:": "pidfds",
}
_GROWTH = {"daemon": 12 * 2**20, "keeper": 3 * 2**20}  # bytes that Python may come to hold


@dataclass(frozen=True)
class Snapshot:
    """One process's: threads, and how many descend from it; descriptors by kind, None where we may
    not see them; resident bytes."""

    counts: Mapping[str, int]
    descriptors: Mapping[str, int] | None
    rss_nbytes: int

    @classmethod
    def of(cls, pid: int) -> "Snapshot":
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        counts = {"threads": int(fields["Threads"]), "descendants": len(descendants(pid))}
        # Shared memory is counted by its descriptors.
        rss_nbytes = int(fields["RssAnon"].split()[0]) * 1024
        return cls(counts, _descriptors(pid), rss_nbytes)

    def beside(self, after: "Snapshot") -> dict[str, tuple[int, int]]:
        """What both have counted, by kind: how many there were, and are."""
        ours, theirs = Counter(self.counts), Counter(after.counts)
        if self.descriptors is not None and after.descriptors is not None:
            ours.update(self.descriptors)
            theirs.update(after.descriptors)
        return {kind: (ours[kind], theirs[kind]) for kind in sorted(ours.keys() | theirs.keys())}


def leaks(who: str, before: Snapshot, after: Snapshot) -> list[str]:
    """What there is more of than before."""
    found = [
        f"leak: the {who} had {had} {kind} and has {has}"
        for kind, (had, has) in before.beside(after).items()
        if has > had
    ]
    grown = after.rss_nbytes - before.rss_nbytes
    if grown > _GROWTH[who]:
        found.append(f"leak: the {who} has {grown / 2**20:.1f} MiB more memory of its own")
    return found


class Left:
    """Made while nothing is loaded and nobody is there; check() compares with that."""

    def __init__(self, stage: Stage, findings: Findings) -> None:
        self._stage = stage
        self._findings = findings
        self._before = self._settled()

    def check(self) -> None:
        """Unload everything, and see that nothing is left of it."""
        with self._stage.client() as client:
            for name in status_of(client).models:
                client.unload(name)
        deadline_s = time.monotonic() + _SETTLE_S
        while self._faults(after := self._settled()) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        for fault in self._faults(after):
            self._findings.violated(fault)
        for who, before in self._before.items():
            if before.descriptors is None or after[who].descriptors is None:
                self._findings.note(
                    f"the {who}'s descriptors are not counted: only root may see them"
                )
            for kind, numbers in before.beside(after[who]).items():
                self._findings.leaks[f"{who}: {kind}"] = numbers
            sizes = before.rss_nbytes // 1024, after[who].rss_nbytes // 1024
            self._findings.leaks[f"{who}: private KiB"] = sizes

    def _faults(self, after: dict[str, Snapshot]) -> list[str]:
        return [
            fault
            for who, before in self._before.items()
            for fault in leaks(who, before, after[who])
        ]

    def _settled(self) -> dict[str, Snapshot]:
        """As soon as nothing is held, nobody is there, and no stager runs."""
        deadline_s = time.monotonic() + _SETTLE_S
        with self._stage.client() as client:
            while time.monotonic() < deadline_s:
                status = status_of(client)
                is_idle = not (status.held_nbytes or status.workers or status.staging)
                if is_idle and not descendants(status.pid):
                    break
                time.sleep(0.05)
        time.sleep(_GONE_S)
        keeper = self._stage.keeper.pid
        return {"daemon": Snapshot.of(status.pid), "keeper": Snapshot.of(keeper)}


def descendants(pid: int) -> set[int]:
    """The PIDs of all processes that a process has started, and that these have."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = {int(word) for word in path.read_text().split()}
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found |= {child} | descendants(child)
    return found


def _descriptors(pid: int) -> dict[str, int] | None:
    """How many of each kind; None where we may not see them. The daemon hides its own from all but
    root."""
    try:
        return Counter(_kind_of(target) for target in _targets(pid))
    except PermissionError:
        return None


def _targets(pid: int) -> list[str]:
    targets = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            targets.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return targets


def _kind_of(target: str) -> str:
    for beginning, kind in _KINDS.items():
        if target.startswith(beginning):
            return kind
    return "other descriptors"
