"""`weightd stress` as people run it, for a bounded time; and with faults planted in a real run."""

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weightd
from tests.command_line import MODULE
from tests.daemons import EARLY
from weightd.errors import WeightdError
from weightd.stress.findings import Findings
from weightd.stress.main import run
from weightd.stress.plan import Plan

pytestmark = pytest.mark.stress


def stress(*options: str, timeout_s: float = 300) -> tuple[int, dict[str, Any]]:
    """The command line's exit status and document."""
    done = subprocess.run(
        [*MODULE, "stress", "--json", *options],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def assert_nothing_broke(status: int, found: dict[str, Any]) -> None:
    assert found["violations"] == {}, found
    assert (status, found["passed"]) == (0, True)
    assert found["predictions"]["failed"] == found["predictions"]["torn"] == 0


def test_a_minute_of_everything_breaks_nothing() -> None:
    status, found = stress("--seconds", "60", "--seed", "1", "--storm", "300")
    assert_nothing_broke(status, found)
    assert found["predictions"]["checked"] > 1000
    assert found["done"]["kill daemon"] >= 1


def test_a_daemon_that_is_killed_again_and_again_loses_nothing() -> None:
    status, found = stress("--kills", "8", "--seed", "2", "--only", "publish,kill")
    assert_nothing_broke(status, found)
    assert found["done"]["kill daemon"] == 8
    assert found["done"]["publish"] > 0
    assert found["done"]["version kept over a kill"] >= 8


def test_a_storm_of_a_thousand_workers_is_weathered() -> None:
    status, found = stress("--seconds", "10", "--seed", "3", "--only", "storm", "--workers", "1")
    assert_nothing_broke(status, found)
    storms = found["done"]["storm"]
    attached = found["done"]["worker of a storm attached and detached"]
    assert attached + found["done"]["worker of a storm killed"] == 1000 * storms


def test_hunger_and_hostility_are_met_with_typed_refusals() -> None:
    status, found = stress(
        *("--seconds", "20", "--seed", "4", "--workers", "2"),
        *("--only", "want,hostile,reuse,stop,publish"),
    )
    assert_nothing_broke(status, found)
    assert found["refused"]["InsufficientMemoryError"] > 0


def test_fifty_thousand_mutated_frames_harm_nobody() -> None:
    status, found = stress("--frames", "50000", "--seed", "5")
    assert_nothing_broke(status, found)
    assert sum(n for k, n in found["done"].items() if k.startswith("mutated")) >= 50_000


# --- planted faults: the run must fail ---------------------------------------------------


def run_with(fault: Callable[[Path], object], tmp_path: Path, monkeypatch: Any) -> Findings:
    """A short run, in which this is done once to its daemon's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = threading.Event()

    def say(text: str) -> None:
        if "predictions" in text and not done.is_set():
            done.set()
            (folder,) = tmp_path.glob("weightd-stress-*/run")
            fault(folder)

    found = run(Plan.of(seconds=6, seed=1, workers=1, only="publish"), say)
    assert done.is_set()
    return found


def publish_behind_its_back(folder: Path) -> None:
    with weightd.Client(folder) as client:
        while True:
            try:
                client.publish("lenet", EARLY)
            except WeightdError:  # another one is being staged
                continue
            return


def test_a_version_that_nobody_asked_for_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_with(publish_behind_its_back, tmp_path, monkeypatch)
    assert not found.has_passed
    assert any("was to be" in fault or "invented" in fault for fault in found.violations)


def unload_everything(folder: Path) -> None:
    with weightd.Client(folder) as client:
        while True:
            try:
                client.unload("lenet")
            except WeightdError:
                continue
            return


def test_a_model_that_is_lost_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_with(unload_everything, tmp_path, monkeypatch)
    assert any(fault.startswith("lost") for fault in found.violations)


@pytest.mark.root  # nobody else sees the daemon's sockets
def test_an_attachment_that_is_left_over_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weightd.Client] = []

    def hold_on(folder: Path) -> None:
        kept.append(weightd.Client(folder))
        kept[0].status()  # a connection that stays

    try:
        found = run_with(hold_on, tmp_path, monkeypatch)
    finally:
        for client in kept:
            client.close()
    assert any("sockets" in fault for fault in found.violations)
