"""`weightd demo`: what it shows is true, and it leaves nothing behind however it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import weightd
from tests.helpers import kill_and_reap, processes_of, wait_until

PROGRAM = "from weightd.demo import run; raise SystemExit(run({}))"
AT_MOST_S = 60.0
SOON_S = 10.0


@contextmanager
def demo(short_path: Path, options: str = "") -> Iterator[subprocess.Popen[str]]:
    """The demo without its memory part, its temp folder and output in short_path."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(weightd.__file__).parent.parent),
        "TMPDIR": str(folder(short_path)),
    }
    with (short_path / "out").open("w") as out, (short_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(f"with_memory=False, {options}")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            text=True,
        )
    try:
        yield process
    finally:
        kill_and_reap(process)


def folder(short_path: Path) -> Path:
    made = short_path / "tmp"
    made.mkdir(exist_ok=True)
    return made


def said(short_path: Path, *, where: str = "out") -> str:
    return (short_path / where).read_text()


def processes(short_path: Path) -> list[str]:
    """The command lines of all processes of this demo: its children's TMPDIR is in its folder."""
    return processes_of(str(folder(short_path)))


def left_behind(short_path: Path) -> list[str]:
    return processes(short_path) + [path.name for path in folder(short_path).iterdir()]


def test_it_updates_three_workers_live_and_no_answer_is_failed_or_torn(short_path: Path) -> None:
    with demo(short_path, "as_json=True") as process:
        assert process.wait(AT_MOST_S) == 0, said(short_path, where="err")
    found = json.loads(said(short_path))
    assert found["problems"] == []
    lenet = found["lenet"]
    assert lenet["accuracy_before"] == pytest.approx(0.761, abs=0.001)
    assert lenet["accuracy_after"] == pytest.approx(0.972, abs=0.001)
    assert lenet["failed"] == lenet["torn"] == 0
    assert lenet["agrees_with_private_session"]
    assert [worker["switches"] for worker in lenet["workers"]] == [3, 3, 3]
    assert all(min(worker["by_version"]) > 360 for worker in lenet["workers"])
    assert left_behind(short_path) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "v1 early weights are live"),
        (signal.SIGTERM, "Part 1"),
    ],
)
def test_a_signal_ends_it_soon_without_a_trace(
    short_path: Path, number: signal.Signals, moment: str
) -> None:
    with demo(short_path) as process:
        wait_until(lambda: moment in said(short_path), timeout_s=AT_MOST_S)
        wait_until(lambda: len(processes(short_path)) >= 2)  # itself and its daemon at least
        process.send_signal(number)
        assert process.wait(SOON_S) == 128 + number
    assert said(short_path, where="err") == ""
    assert left_behind(short_path) == []


def test_its_children_die_with_it(short_path: Path) -> None:
    with demo(short_path) as process:
        wait_until(lambda: len(processes(short_path)) >= 2, timeout_s=AT_MOST_S)
        process.kill()
        wait_until(lambda: not processes(short_path), timeout_s=SOON_S)
