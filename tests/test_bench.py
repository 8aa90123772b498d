"""`weightd bench`: its sums are right, its options are checked first, its rows are all there."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command_line import ENVIRON, MODULE, Done
from tests.helpers import kill_and_reap, wait_until
from tests.nets import dense, saved
from weightd.benchmarks import models, plan, report
from weightd.benchmarks.comparison import Bar, Comparison, Spread
from weightd.benchmarks.main import Findings
from weightd.benchmarks.turns import in_turns
from weightd.errors import BadFileError, SettingsError

SOON_S = 60


def bench(
    *words: object, program: Sequence[str] = MODULE, environment: Mapping[str, str] | None = None
) -> Done:
    done = subprocess.run(
        [*program, "bench", *map(str, words)],
        env=ENVIRON | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["what"]: row for row in document["comparisons"]}


# --- sums ----------------------------------------------------------------------------------


def a_comparison(bar: Bar | None = None, **more: Any) -> Comparison:
    values: dict[str, Any] = {"ours": (2.0, 9.0, 4.0), "floor": (1.0, 3.0, 4.0)} | more
    return Comparison("predict", "predict, x", "s", bar=bar, **values)


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    assert a_comparison().ratio == 2.0
    assert a_comparison(floor=()).ratio is None


@pytest.mark.parametrize(
    ("bar", "holds"),
    [
        (None, None),
        (Bar(2.0), True),
        (Bar(1.9), False),
        (Bar(2.0, is_least=True), True),
        (Bar(2.1, is_least=True), False),
        (Bar(4.0, "ours"), True),
        (Bar(3.9, "ours"), False),
    ],
)
def test_a_bar_holds_up_to_its_limit(bar: Bar | None, holds: bool | None) -> None:
    assert a_comparison(bar).holds is holds


def test_a_spread_leaves_out_a_tenth_at_each_end() -> None:
    assert Spread.of(tuple(map(float, range(11)))) == Spread(5, 1, 9, 0, 10)
    assert Spread.of((3.0,)) == Spread(3, 3, 3, 3, 3)


def test_each_side_is_first_in_turn_and_measured_as_often() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], str]:
        def measure() -> str:
            order.append(name)
            return name

        return measure

    found = in_turns(side("a"), side("b"), side("c"), rounds=3)
    assert found == (("a",) * 3, ("b",) * 3, ("c",) * 3)
    assert "".join(order) == "abc" + "bca" + "cab"


def test_a_missed_bar_is_found_and_a_row_without_one_is_not() -> None:
    rows = [a_comparison(Bar(1.0)), a_comparison(Bar(3.0)), a_comparison()]
    assert report.missed(Findings(comparisons=rows)) == rows[:1]


@pytest.mark.parametrize(
    ("comparison", "cells"),
    [
        (a_comparison(Bar(2.0)), ("4 s (2 to 9)", "3 s (1 to 4)", "2.00", "≤ 2", "ok")),
        (a_comparison(Bar(0.02, "ours"), floor=()), ("4 s (2 to 9)", "", "", "≤ 20 ms", "fail")),
        (a_comparison(ours=(3e-5,), floor=(2e-3,)), ("30 µs", "2 ms", "0.01", "", "")),
    ],
)
def test_times_are_said_as_people_say_them(comparison: Comparison, cells: tuple[str, ...]) -> None:
    assert report.row(comparison)[1:-1] == cells


# --- options -------------------------------------------------------------------------------


def test_options_are_taken_as_they_are_meant() -> None:
    assert plan.workers_of(" 4,1,2,4") == (1, 2, 4)
    assert plan.measurements_of("swap, memory") == ("memory", "swap")
    assert plan.measurements_of("") == plan.MEASUREMENTS
    assert [m.name for m in models.chosen([], None, is_quick=True)] == list(models.QUICK)
    assert plan.QUICK.with_rounds(2).updates == 2
    assert plan.QUICK.with_rounds(None) == plan.QUICK


@pytest.mark.parametrize("text", ["0", "1,,2", "-1", "two", "", "1.5"])
def test_what_is_no_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--workers"):
        plan.workers_of(text)


def test_a_name_that_is_none_of_them_is_answered_with_the_list() -> None:
    assert bench("--model", "gpt").complaint() == (
        "no model 'gpt'; there are mlp, bert, resnet, mobilenet, lenet, small-mlp"
    )
    with pytest.raises(SettingsError, match=r"no measurement 'speed'; there are attach, memory"):
        plan.measurements_of("memory,speed")
    with pytest.raises(BadFileError, match=r"no\.onnx is not a file"):
        models.chosen([], Path("no.onnx"), is_quick=False)
    with pytest.raises(SettingsError, match="--rounds 0"):
        plan.QUICK.with_rounds(0)


def test_without_matplotlib_a_plot_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['matplotlib'] = None; from weightd.cli import main; main()"
    told = bench("--plot", tmp_path / "x.png", program=[sys.executable, "-c", program])
    assert told.complaint() == "--plot needs matplotlib: pip install 'weightd[bench]'"


# --- runs ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_quick_run_has_every_row_and_leaves_nothing(tmp_path: Path, short_path: Path) -> None:
    picture = tmp_path / "x.png"
    told = bench(
        *("--quick", "--model", "lenet", "--rounds", 2, "--workers", "1,2"),
        *("--only", "memory,predict,first-answer,swap,publish,verify", "--json", "--plot", picture),
        # matplotlib and what it imports warn of their own deprecations.
        environment={"TMPDIR": str(short_path), "PYTHONWARNINGS": "default"},
    )
    assert told.status == 0, told.err
    document = json.loads(told.out)
    rows = rows_of(document)
    assert {
        "memory of 1 worker, LeNet-5",
        "memory of 2 workers, LeNet-5",
        "private memory of each, LeNet-5",
        "held by the daemon, LeNet-5",
        "predict, LeNet-5",
        "attach and first answer, LeNet-5",
        "first answer in a forked child, LeNet-5",
        "pause of a swap, LeNet-5",
        "first prediction after it, LeNet-5",
        "publish, LeNet-5",
        "publish, 64 MiB of tensors",
        "verify, 64 MiB of tensors",
    } <= rows.keys()
    for row in rows.values():
        assert row["ours"]["least"] <= row["ours"]["median"] <= row["ours"]["most"]
        assert row["floor"] is None or row["ratio"] >= 0
    for word in ("failed", "torn"):
        row = rows[f"{word} predictions, LeNet-5"]
        assert (row["ours"]["most"], row["holds"]) == (0, True)
        assert row["floor"]["least"] > 100
    assert rows["pause of a swap, LeNet-5"]["values"] == 2 * 4
    assert rows["memory of 2 workers, LeNet-5"]["workers"] == 2
    assert document["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert document["engines"].keys() == {"lenet"}
    assert document["failed"] == document["skipped"] == []
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(short_path.iterdir()) == []


def test_a_model_of_ones_own_is_measured_in_two_batches(tmp_path: Path) -> None:
    file = saved(dense(), tmp_path / "mine.onnx")
    told = bench("--onnx", file, "--only", "predict", "--rounds", 1)
    assert told.status == 0, told.err
    assert told.err == ""
    for row in ("predict, mine.onnx, batch 1", "predict, mine.onnx, batch 8", "engines: own by "):
        assert row in told.out


def test_a_model_that_cannot_be_loaded_costs_only_its_own_rows(tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no model at all")
    options = ("--rounds", 1, "--only", "predict", "--onnx", file)
    assert "broken.onnx" in bench(*options).complaint()
    told = bench(*options, "--model", "lenet")
    assert told.status == 1
    assert "predict, LeNet-5" in told.out
    assert "failed: broken.onnx, preparing: " in told.out


def test_a_missed_bar_is_an_exit_status_only_when_asked() -> None:
    """An attach costs more than a bare exchange of a descriptor, three times more or not."""
    options = ("--quick", "--only", "attach", "--rounds", 3, "--json")
    document = bench(*options).json()
    assert list(rows_of(document)) == [
        "attach, 1 MiB",
        "attach and manifest, 1 MiB",
        "attach and detach, 4 processes at once",
        "attach, the slowest of 100, 4 processes at once",
    ]
    checked = bench(*options, "--check")
    assert checked.status == (0 if json.loads(checked.out)["holds"] else 1)


def test_a_signal_ends_it_soon_without_a_trace(short_path: Path) -> None:
    argv = [*MODULE, "bench", "--quick", "--only", "attach", "--rounds", "1000000"]
    process = subprocess.Popen(argv, env=ENVIRON | {"TMPDIR": str(short_path)})
    try:
        wait_until(lambda: list(short_path.glob("*/bare-*.sock")), timeout_s=20)
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    finally:
        kill_and_reap(process)
    assert list(short_path.iterdir()) == []


def test_inputs_follow_the_ports_of_a_model() -> None:
    from weightd.backends.ports import TensorInfo
    from weightd.benchmarks.subject import inputs_for

    ports = {
        "x": TensorInfo(np.dtype("float16"), ("batch", 3)),
        "ids": TensorInfo(np.dtype("int64"), (None, 5)),
    }
    found = inputs_for(ports, int_below=9)
    assert found.keys() == {1, 8}
    assert found[8]["x"].shape == (8, 3)
    assert found[8]["x"].dtype == np.float16
    assert found[1]["ids"].max() < 9
    assert inputs_for({"x": TensorInfo(np.dtype("bool"), (2,))}, int_below=2).keys() == {0}
