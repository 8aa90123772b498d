"""Each example runs as it stands, says what it shows, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import weightd
from tests.helpers import processes_of, wait_until

ROOT = Path(weightd.__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, short_path: Path) -> Iterator[Run]:
    """Runs an example; returns what it printed. Nothing may be on standard error."""
    runtime = short_path / "run"

    def ran(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(tmp_path),
                "WEIGHTD_RUNTIME_DIR": str(runtime),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    yield ran
    wait_until(lambda: not processes_of(str(tmp_path)))
    assert [path.name for path in runtime.rglob("*")] in ([], ["embedded"])
    assert not list(tmp_path.iterdir())


def test_quick_start_reads_a_digit(run: Run) -> None:
    assert "The model takes this picture for a 7; it is a 7." in run("quick_start.py")


def test_parallel_answers_every_thread(run: Run) -> None:
    out = run("parallel.py", "--workers", "2", "--threads", "4")
    assert out.startswith("2 workers on one copy of the weights, 4 threads that ask:\n")
    assert "97.2% of them right" in out


def test_sharing_has_three_processes_that_are_right(run: Run) -> None:
    out = run("sharing.py")
    right = [int(count) for count in re.findall(r"has (\d+) of 120 digits right", out)]
    assert len(right) == 3
    assert sum(right) == 350  # as weightd/data/README.md has it


def test_prefork_replaces_the_workers_that_were_killed(run: Run) -> None:
    """Three of two are killed: so one that replaced another has answered."""
    out = run("prefork.py", "--workers", "2")
    assert len(re.findall(r"worker \d+ attached in", out)) >= 3
    assert len(re.findall(r"worker \d+ is dead: the parent forks another", out)) >= 1
    assert "350 of 360 digits were read right" in out


def test_live_fine_tuning_makes_the_workers_better_while_they_predict(run: Run) -> None:
    out = run("live_fine_tuning.py", "--publishes", "3", "--steps", "14")
    (reached,) = re.findall(r"the trained model has ([\d.]+)% right", out)
    workers = set(re.findall(r"process (\d+) predicts", out))
    assert len(workers) == 2
    for worker in workers:
        seen = [float(n) for n in re.findall(rf"process {worker} .* ([\d.]+)% right", out)]
        assert seen[0] < 40
        assert seen[-1] == float(reached) > 85
    assert out.count("published in") == 3


def test_the_page_lists_every_example() -> None:
    listed = re.findall(r"^\| `(\w+\.py)`", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == PROGRAMS


@pytest.mark.parametrize("name", ["parallel.py", "prefork.py", "live_fine_tuning.py"])
def test_options_are_explained(run: Run, name: str) -> None:
    out = run(name, "--help")
    assert out.startswith(f"usage: {name} ")
    assert "--workers" in out
