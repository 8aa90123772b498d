"""Targets and cores: what becomes of a Context's wishes on this machine."""

import logging
from pathlib import Path

import pytest

from weightd import Context, targets
from weightd.allotment import threads_for, workers_for
from weightd.cores import cores_for, speeds_of_cores
from weightd.errors import SettingsError, TargetError, WeightdError

BIG_LITTLE = {0: 1000, 1: 1000, 2: 500, 3: 500}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "devices", lambda: ("cpu",))
    targets._say_once.cache_clear()


@pytest.mark.parametrize("wanted", [["cpu"], ["CPU"], ["cpu", "gpu"], ["cpu", "ascend"]])
def test_the_cpu_is_always_here(wanted: list[str]) -> None:
    assert targets.resolve(wanted, {}) == "cpu"


@pytest.mark.parametrize("wanted", ["ascend", "gpu"])
def test_a_target_that_is_not_here_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.resolve([wanted], {})
    for part in (wanted, "its targets are: cpu", "WEIGHTD_TARGET_SUBSTITUTE=cpu"):
        assert part in str(caught.value)


def test_another_target_of_the_list_is_taken_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert targets.resolve(["gpu", "cpu"], {}) == "cpu"
        assert targets.resolve(["gpu", "cpu"], {}) == "cpu"
    assert [record.message for record in caplog.records] == [
        "there is no 'gpu' here that weightd can use: models run on the 'cpu'"
    ]


def test_a_substitute_runs_such_scripts_unchanged_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"WEIGHTD_TARGET_SUBSTITUTE": "cpu"}
    with caplog.at_level(logging.WARNING):
        assert targets.resolve(["Ascend"], environ) == "cpu"
        assert targets.resolve(["ascend"], environ) == "cpu"
    assert len(caplog.records) == 1
    assert targets.resolve(["cpu"], environ) == "cpu"


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [("npu", SettingsError, "it is cpu or gpu"), ("gpu", TargetError, "does not have either")],
)
def test_a_substitute_must_be_here(value: str, kind: type[WeightdError], text: str) -> None:
    with pytest.raises(kind, match=text):
        targets.resolve(["ascend"], {"WEIGHTD_TARGET_SUBSTITUTE": value})


@pytest.mark.parametrize(
    ("mode", "core_list", "cores"),
    [
        (0, [], ()),
        (1, [], (0, 1, 2, 3)),
        (2, [], (2, 3, 0, 1)),
        (0, [3, 1], (3, 1)),
        (1, [3], (3,)),
        (9, [], ()),
    ],
)
def test_a_mode_or_a_list_says_which_cores(
    mode: int, core_list: list[int], cores: tuple[int, ...]
) -> None:
    assert cores_for(mode, core_list, {0, 1, 2, 3}, BIG_LITTLE) == cores


@pytest.mark.parametrize("mode", [1, 2])
def test_cores_that_are_all_alike_are_taken_in_order(mode: int) -> None:
    assert cores_for(mode, [], {5, 1, 3}, {}) == (1, 3, 5)


def test_a_core_that_the_process_may_not_use_is_named() -> None:
    with pytest.raises(SettingsError, match="names core 9, which this process may not use"):
        cores_for(0, [1, 9], {0, 1}, {})


def test_the_speed_of_a_core_is_the_kernels(tmp_path: Path) -> None:
    assert speeds_of_cores(tmp_path) == {}
    (tmp_path / "cpu0").mkdir()
    (tmp_path / "cpu0" / "cpu_capacity").write_text("1024\n")
    assert speeds_of_cores(tmp_path) == {0: 1024}


def test_sessions_get_threads_and_cores_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    cpu = Context().cpu
    assert [t.count for t in threads_for(cpu)] == [4]
    assert [t.count for t in threads_for(cpu, 2)] == [2, 2]
    assert workers_for(cpu, 0) == 4
    cpu.thread_num, cpu.inter_op_parallel_num = 2, 8
    cpu.thread_affinity_core_list = [0, 1, 2]
    assert [(t.count, t.operators, t.cores) for t in threads_for(cpu, 2)] == [
        (2, 2, (0, 1)),
        (2, 2, (2, 0)),
    ]
    assert workers_for(cpu, 0) == 2
    assert workers_for(cpu, 7) == 7
