"""`weightd stress` of a user who may not see the daemon's descriptors, nor take any from it: what
cannot be looked at is said, and not counted. For root the kernel's refusal is planted."""

import errno
import os
import resource
from random import Random
from typing import Any

import pytest

from weightd.stress.findings import Findings
from weightd.stress.leaks import Left, Snapshot, leaks
from weightd.stress.stage import Stage
from weightd.stress.want import Want

UNCOUNTED = "the daemon's descriptors are not counted: only root may see them"
UNTAKEN = "the daemon's descriptors were never exhausted: only root may count and limit them"


def refuse_list(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lists the process's descriptors is refused, as by the kernel."""
    listdir = os.listdir

    def refused(path: Any = ".") -> list[str]:
        if str(path) == f"/proc/{pid}/fd":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refused)


def refuse_limit(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever limits the process is refused, as by the kernel."""
    prlimit = resource.prlimit

    def refused(other: int, *arguments: Any) -> tuple[int, int]:
        if other == pid:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return prlimit(other, *arguments)

    monkeypatch.setattr(resource, "prlimit", refused)


def test_what_may_be_read_is_compared_without_the_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Snapshot.of(os.getpid())
    refuse_list(os.getpid(), monkeypatch)
    refused = Snapshot.of(os.getpid())
    assert seen.descriptors
    assert refused.descriptors is None
    assert refused.counts.keys() == {"threads", "descendants"}
    assert refused.rss_nbytes > 0
    grown = Snapshot({**refused.counts, "threads": 1000}, None, refused.rss_nbytes)
    for before in (seen, refused):
        assert leaks("daemon", before, refused) == leaks("daemon", refused, before) == []
        (fault,) = leaks("daemon", before, grown)
        assert fault.endswith("threads and has 1000")


def test_a_run_says_once_that_the_daemons_descriptors_are_not_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_list(stage.daemon_pid(), monkeypatch)
    findings = Findings(1)
    left = Left(stage, findings)
    left.check()
    left.check()
    assert findings.notes == [UNCOUNTED]
    assert findings.has_passed
    daemons = {what for what in findings.leaks if what.startswith("daemon")}
    assert daemons == {"daemon: threads", "daemon: descendants", "daemon: private KiB"}
    assert {"keeper: memfds", "keeper: sockets", "keeper: threads"} <= findings.leaks.keys()


@pytest.mark.root
def test_roots_run_counts_the_daemons_descriptors(stage: Stage) -> None:
    findings = Findings(1)
    Left(stage, findings).check()
    assert findings.notes == []
    assert {"daemon: memfds", "daemon: sockets", "daemon: threads"} <= findings.leaks.keys()


@pytest.mark.parametrize("refuse", [refuse_list, refuse_limit])
def test_descriptors_that_cannot_be_taken_are_not_counted_as_exhausted(
    refuse: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = stage.daemon_pid()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    findings = Findings(1)
    want = Want(stage, findings)
    with monkeypatch.context() as patched:
        refuse(pid, patched)
        want.of_descriptors(Random(1))
        want.of_descriptors(Random(1))
    want.close()
    assert findings.notes == [UNTAKEN]
    assert "descriptors exhausted" not in findings.done
    assert findings.has_passed
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == before


@pytest.mark.root
def test_roots_run_exhausts_the_daemons_descriptors(stage: Stage) -> None:
    findings = Findings(1)
    want = Want(stage, findings)
    want.of_descriptors(Random(1))
    want.close()
    assert findings.done["descriptors exhausted"] == 1
    assert findings.notes == []
    assert findings.has_passed
