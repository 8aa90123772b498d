"""What `weightd stress` checks by: each fault that it is to find is planted, and found."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.daemons import Daemon
from tests.helpers import kill_and_reap
from weightd.errors import BusyError, NoDaemonError, SettingsError
from weightd.stress import mutation, storm_parent, zmtp
from weightd.stress.findings import Findings
from weightd.stress.leaks import Snapshot, leaks
from weightd.stress.ledger import Ledger, Publish, Rollback, Shown, fault_of_answers
from weightd.stress.outages import Outages, are_too_many
from weightd.stress.plan import Plan
from weightd.stress.predictor import Tally
from weightd.stress.schedule import steps

HOLDER = """
import os, socket, sys
kept = []
for line in sys.stdin:
    kept.append(eval(line))
    print("done", flush=True)
"""


def ledger_of(*requests: Publish | Rollback) -> Ledger:
    """What is known when all of these were answered as they should be."""
    ledger = Ledger(2)
    for request in requests:
        assert ledger.answered(request, ledger.now.after(request).live) == ""
    return ledger


def shown(live: int, *numbers: int) -> Shown:
    return Shown(live, frozenset({live, *numbers}))


THREE = (Publish(0), Publish(1), Publish(2))


# --- outages -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "asked", "is_quiet", "is_fault"),
    [(0, 0, True, False), (1, 0, True, True), (3, 1, False, False), (4, 1, False, True)],
)
def test_weights_that_were_read_again_are_found(
    read: int, asked: int, is_quiet: bool, is_fault: bool
) -> None:
    assert are_too_many(read, asked, is_quiet=is_quiet) == is_fault


class Journal:
    """Stands for the stage and for who publishes: somebody asks while the stagings are counted."""

    requests = 0
    pid = 1

    def wait_until_serving(self, _: float) -> int:
        return self.pid

    def stagings(self) -> int:
        self.requests += 1
        return 7


def test_who_asks_while_stagings_are_counted_is_counted_as_asking_later() -> None:
    journal: Any = Journal()
    assert Outages(journal, Findings(1), journal).asked_and_read() == (0, 7)


# --- versions ----------------------------------------------------------------------------


def test_what_was_answered_explains_what_is_shown() -> None:
    ledger = ledger_of(*THREE, Rollback(None))
    assert ledger.checked(shown(2, 3)) == ""
    assert ledger.checked(shown(2, 3, 1)) == ""  # a worker holds 1


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (shown(3), "lost: version 2 is not there"),
        (shown(2, 3), "lost: version 3 is live by what was answered, 2 is shown"),
        (shown(3, 2, 4), "invented: nobody published version 4"),
        (shown(4, 3), "lost: version 2 is not there"),
        (Shown(0, frozenset()), "lost: version 2 is not there"),
    ],
)
def test_a_lost_and_an_invented_version_are_found(seen: Shown, fault: str) -> None:
    assert ledger_of(*THREE).checked(seen) == fault


def test_a_request_without_an_answer_was_carried_out_or_not() -> None:
    for seen, live in ((shown(3, 2), 3), (shown(4, 3), 4)):
        ledger = ledger_of(*THREE)
        assert ledger.unanswered(Publish(0), seen) == ""
        assert ledger.now.live == live


def test_a_request_without_an_answer_that_did_something_else_is_found() -> None:
    assert ledger_of(*THREE).unanswered(Publish(0), shown(5, 3, 4)) != ""
    assert ledger_of(*THREE).unanswered(Rollback(None), shown(1, 2)) != ""


def test_an_answer_with_another_number_is_found() -> None:
    assert "where 4 was to be" in ledger_of(*THREE).answered(Publish(0), 5)


def test_only_what_is_kept_can_be_rolled_back_to() -> None:
    with pytest.raises(ValueError, match="cannot be live again"):
        ledger_of(*THREE).now.after(Rollback(1))


# --- predictions -------------------------------------------------------------------------


def test_an_answer_of_a_wrong_version_is_found() -> None:
    weights = {1: 0, 2: 1}
    assert fault_of_answers({((1,), 0): 7, ((2,), 1): 7, ((1, 2), 1): 1}, weights) == []
    assert fault_of_answers({((2,), 0): 3}, weights) == ["3 answers on version 2 are of weights 0"]


def test_a_prediction_on_a_version_that_nobody_published_is_found() -> None:
    assert fault_of_answers({((3,), 0): 2}, {1: 0}) == ["invented: 2 predictions on version 3"]


def test_an_answer_that_no_weights_give_is_torn() -> None:
    tally = Tally([b"one", b"two"])
    tally.answered(b"two", (1,))
    tally.answered(b"tw1", (1,))
    assert tally.report() == {"failed": {}, "torn": 1, "seen": [[[1], 1, 1]]}


def test_torn_bytes_of_an_attached_version_are_found(daemon: Daemon) -> None:
    whole = np.full(100_000, storm_parent.fill(1), np.uint8)
    torn = whole.copy()
    torn[77_777] += 1
    for name, array in (("whole", whole), ("torn", torn)):
        daemon.client.load(name, {storm_parent.TENSOR: array})
        daemon.client.allow(name, os.getpid())
    assert storm_parent.look(daemon.folder, "whole") == ""
    assert storm_parent.look(daemon.folder, "torn").startswith("torn: version 1 of torn")


def test_a_storm_tells_what_each_of_its_workers_met(daemon: Daemon) -> None:
    found = storm_parent.storm(daemon.folder, "none", 5, 0.4, 1)
    assert found["attached"] == 0
    assert found["met"].keys() <= {"UnknownModelError"}
    assert found["killed"] <= 2
    assert found["wrong"] == []


# --- leaks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        ("os.memfd_create('planted')", "0 memfds"),
        ("socket.socket()", "0 sockets"),
        ("os.pidfd_open(os.getpid())", "0 pidfds"),
        ("os.open('/dev/null', os.O_RDONLY)", "other descriptors"),
        ("os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60')", "0 descendants"),
        ("b'x' * (64 << 20)", "MiB more memory"),
    ],
)
def test_a_leak_of_each_kind_is_found(act: str, fault: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    spawned: list[int] = []
    try:
        for line in ("None", act):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            if line == "None":
                before = Snapshot.of(process.pid)
        found = leaks("daemon", before, Snapshot.of(process.pid))
        spawned = [int(pid) for pid in _children(process.pid)]
        assert leaks("daemon", before, before) == []
        assert len(found) == 1
        assert fault in found[0]
    finally:
        for pid in spawned:
            os.kill(pid, 9)
        kill_and_reap(process)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# --- the verdict, the seed, the frames ---------------------------------------------------


def test_one_violation_is_enough_and_refusals_are_none() -> None:
    findings = Findings(7)
    findings.met(BusyError("later"))
    findings.met(NoDaemonError("away"))
    findings.predicted(checked=100)
    assert findings.has_passed
    assert (dict(findings.refused), dict(findings.unanswered)) == (
        {"BusyError": 1},
        {"NoDaemonError": 1},
    )
    findings.violated("lost: version 3 is not there")
    assert not findings.has_passed
    assert ("VIOLATED", "lost: version 3 is not there", "1") in findings.rows()
    assert findings.document()["passed"] is False


def test_a_note_is_said_once_however_often_it_is_found() -> None:
    findings = Findings(7)
    for text in ("not looked at", "something else", "not looked at"):
        findings.note(text)
    assert findings.document()["notes"] == ["not looked at", "something else"]


def test_predictions_are_in_the_table_where_anybody_predicted_and_always_in_the_document() -> None:
    findings = Findings(7)
    assert [row for row in findings.rows() if row[0] == "predictions"] == []
    assert findings.document()["predictions"] == {"checked": 0, "failed": 0, "torn": 0}
    findings.predicted(failed=0, torn=0)  # a worker was there, and got no answer
    assert findings.rows()[:3] == [
        ("predictions", "checked", "0"),
        ("predictions", "failed", "0"),
        ("predictions", "torn", "0"),
    ]


def test_the_table_says_which_of_the_measured_times_it_shows() -> None:
    findings = Findings(7)
    for ms in (1, 2, 30):
        findings.took("publish", ms / 1000)
    assert findings.rows() == [("time", "publish", "3 x: median 2.00 ms, p99 30.00, max 30.00")]


@pytest.mark.parametrize("kind", ["failed", "torn"])
def test_one_failed_or_torn_prediction_is_enough(kind: str) -> None:
    findings = Findings(7)
    findings.predicted(checked=1_000_000)
    findings.predicted(**{kind: 1})
    assert not findings.has_passed


def test_a_seed_gives_the_same_steps_again_and_another_one_others() -> None:
    shares = {"a": 1.0, "b": 2.0, "c": 0.1}
    one, again, other = (list(islice(steps(s, shares, 0.2), 200)) for s in (1, 1, 2))
    assert one == again != other
    assert {step.action for step in one} == shares.keys()
    assert all(0 <= step.pause_s <= 0.2 for step in one)


def test_a_seed_gives_the_same_frames_again() -> None:
    for seeds in (mutation.CONTROL, mutation.ATTACH, mutation.ADMIN, mutation.KEEPER):
        one, again = ([mutation.mutated(Random(n), seeds) for n in range(300)] for _ in range(2))
        assert one == again
        assert len(set(one)) > 200


def test_no_frame_ends_the_daemon_or_names_a_model_that_there_is() -> None:
    random = Random(1)
    for _ in range(20_000):
        raw = mutation.mutated(random, mutation.CONTROL)
        assert b"Shutdown" not in raw
        assert b"lenet" not in raw


def test_long_and_short_frames_are_zmtps() -> None:
    assert zmtp.message(b"1", b"x" * 256) == b"\1\0011" + b"\2" + bytes(6) + b"\1\0" + b"x" * 256


@pytest.mark.parametrize(
    "options",
    [{"seconds": 0.0}, {"kills": 0}, {"frames": -1}, {"workers": 0}, {"only": "kill,nonsense"}],
)
def test_a_plan_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Plan.of(**options)  # type: ignore[arg-type]  # one by one


def test_a_plan_for_frames_kills_nobody_and_one_for_kills_does() -> None:
    assert Plan.of(frames=10).scenarios == {"fuzz"}
    assert "kill" in Plan.of(kills=3, only="publish").scenarios
    assert Plan.of().seconds == 60.0
    assert Plan.of(kills=3).seconds is None
