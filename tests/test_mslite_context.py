"""Context by MindSpore Lite's contract: what it takes, what it says, and the order of checks."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightd as mslite
from weightd.context import Context

Attempt = tuple[str, object, type[Exception], str]


def put(context: Context, path: str, value: object) -> None:
    """Set `cpu.thread_num`, say."""
    *parents, name = path.split(".")
    target: Any = context
    for parent in parents:
        target = getattr(target, parent)
    setattr(target, name, value)


def got(context: Context, path: str) -> object:
    target: Any = context
    for name in path.split("."):
        target = getattr(target, name)
    return target


REFUSED: list[Attempt] = [
    ("target", 1, TypeError, "target must be list"),
    ("target", "cpu", TypeError, "target must be list"),
    ("target", [1], TypeError, "target element must be str"),
    ("target", ["cpu", 1], TypeError, "at index 1"),
    ("target", ["1"], ValueError, "target elements must be in ['cpu', 'gpu', 'ascend'], but got"),
    ("target", ["npu", 1], TypeError, "target element must be str"),
    ("group_info_file", 1, TypeError, "group_info_file must be str"),
    ("cpu.precision_mode", 1, TypeError, "cpu_precision_mode must be str"),
    ("cpu.precision_mode", "1", ValueError, "cpu_precision_mode must be in ["),
    ("cpu.precision_mode", "enforce_fp16", ValueError, "cpu_precision_mode must be in ["),
    ("cpu.thread_num", "1", TypeError, "cpu_thread_num must be int"),
    ("cpu.thread_num", 1.0, TypeError, "cpu_thread_num must be int"),
    ("cpu.thread_num", np.int64(1), TypeError, "cpu_thread_num must be int"),
    ("cpu.thread_num", -1, ValueError, "cpu_thread_num must be a non-negative int."),
    ("cpu.inter_op_parallel_num", "1", TypeError, "cpu_inter_op_parallel_num must be int"),
    (
        "cpu.inter_op_parallel_num",
        -1,
        ValueError,
        "cpu_inter_op_parallel_num must be a non-negative int.",
    ),
    ("cpu.thread_affinity_mode", "1", TypeError, "cpu_thread_affinity_mode must be int"),
    ("cpu.thread_affinity_core_list", 2, TypeError, "cpu_thread_affinity_core_list must be list"),
    ("cpu.thread_affinity_core_list", (2,), TypeError, "thread_affinity_core_list must be list"),
    ("cpu.thread_affinity_core_list", None, TypeError, "thread_affinity_core_list must be list"),
    (
        "cpu.thread_affinity_core_list",
        ["1", "0"],
        TypeError,
        "cpu_thread_affinity_core_list element must be int",
    ),
    ("gpu.precision_mode", 1, TypeError, "gpu_precision_mode must be str"),
    ("gpu.precision_mode", "1", ValueError, "gpu_precision_mode must be in ["),
    ("gpu.device_id", "1", TypeError, "gpu_device_id must be int"),
    ("gpu.device_id", -1, ValueError, "gpu_device_id must be a non-negative int."),
    ("gpu.rank_id", 1, AttributeError, ""),
    ("gpu.group_size", 1, AttributeError, ""),
    ("ascend.precision_mode", 1, TypeError, "ascend_precision_mode must be str"),
    ("ascend.precision_mode", "1", ValueError, "ascend_precision_mode must be in ["),
    ("ascend.precision_mode", "preferred_fp16", ValueError, "ascend_precision_mode must be in ["),
    ("ascend.device_id", "1", TypeError, "ascend_device_id must be int"),
    ("ascend.device_id", -1, ValueError, "ascend_device_id must be a non-negative int."),
    ("ascend.rank_id", "1", TypeError, "ascend_rank_id must be int"),
    ("ascend.rank_id", -1, ValueError, "ascend_rank_id must be a non-negative int."),
    ("ascend.provider", 1, TypeError, "ascend_provider must be str"),
    ("parallel.workers_num", "4", TypeError, "workers_num must be int"),
    (
        "parallel.workers_num",
        -1,
        ValueError,
        "Set parallel failed, workers_num must be a non-negative int.",
    ),
    ("parallel.config_info", 1, TypeError, "config_info must be dict"),
    ("parallel.config_info", {1: {}}, TypeError, "config_info_key must be str"),
    ("parallel.config_info", {"a": 1}, TypeError, "config_info_value must be dict"),
    ("parallel.config_info", {"a": {1: ""}}, TypeError, "config_info_value_key must be str"),
    ("parallel.config_info", {"a": {"b": 1}}, TypeError, "config_info_value_value must be str"),
    ("parallel.config_path", 1, TypeError, "config_path must be str"),
    ("parallel.config_path", "none.ini", ValueError, "config_path does not exist!"),
    ("parallel.device_ids", 1, TypeError, "device_ids must be list"),
    ("parallel.device_ids", None, TypeError, "device_ids must be list"),
    ("parallel.device_ids", ["1"], TypeError, "device_ids element must be int"),
    ("parallel.device_ids", [0, -1], ValueError, "device_ids contain a negative number."),
]

TAKEN: list[tuple[str, object]] = [
    ("target", ["cpu"]),
    ("target", ["gpu"]),
    ("target", ["ascend"]),
    ("target", ["Ascend", "CPU"]),
    ("group_info_file", "/some/where.pb"),
    ("cpu.precision_mode", "preferred_fp16"),
    ("cpu.precision_mode", "enforce_fp32"),
    ("cpu.thread_num", 0),
    ("cpu.thread_num", 4),
    ("cpu.thread_num", True),
    ("cpu.inter_op_parallel_num", 2),
    ("cpu.thread_affinity_mode", 2),
    ("cpu.thread_affinity_mode", 17),
    ("cpu.thread_affinity_core_list", [1, 0]),
    ("gpu.precision_mode", "preferred_fp16"),
    ("gpu.device_id", 2),
    *(
        ("ascend.precision_mode", mode)
        for mode in (
            "enforce_fp32",
            "preferred_fp32",
            "enforce_fp16",
            "enforce_origin",
            "preferred_optimal",
        )
    ),
    ("ascend.device_id", 3),
    ("ascend.rank_id", 1),
    ("ascend.provider", "ge"),
    ("parallel.workers_num", 4),
    ("parallel.device_ids", [0, 1]),
]


@pytest.mark.parametrize(("path", "value", "kind", "text"), REFUSED)
def test_what_is_wrong_is_refused_in_upstreams_words_and_changes_nothing(
    path: str, value: object, kind: type[Exception], text: str
) -> None:
    context = mslite.Context()
    before = got(context, path)
    with pytest.raises(kind) as caught:
        put(context, path, value)
    assert text in str(caught.value)
    assert got(context, path) == before


@pytest.mark.parametrize(("path", "value"), TAKEN)
def test_what_is_set_is_read_again(path: str, value: object) -> None:
    context = mslite.Context()
    put(context, path, value)
    assert got(context, path) == value


@pytest.mark.parametrize("nothing", [[], None])
def test_no_target_is_the_cpu(nothing: list[str] | None) -> None:
    context = mslite.Context()
    context.target = ["gpu"]
    context.target = nothing
    assert context.target == ["cpu"]


def test_a_new_context_is_for_the_cpu_with_what_suits_the_machine() -> None:
    context = mslite.Context()
    assert str(context) == "target: ['cpu']."
    assert str(context.cpu) == (
        "device_type: DeviceType.kCPU,\nprecision_mode: enforce_fp32,\nthread_num: 0,\n"
        "inter_op_parallel_num: 0,\nthread_affinity_mode: 0,\nthread_affinity_core_list: []."
    )
    assert str(context.gpu) == (
        "device_type: DeviceType.kGPU,\nprecision_mode: enforce_fp32,\ndevice_id: 0,\n"
        "rank_id: 0,\ngroup_size: 1."
    )
    assert str(context.parallel) == "workers num: 0,\nconfig info: ,\nconfig file: ."


def test_the_settings_of_an_ascend_are_said_in_upstreams_odd_form() -> None:
    context = mslite.Context()
    context.ascend.precision_mode, context.ascend.device_id = "enforce_fp32", 2
    context.ascend.provider, context.ascend.rank_id = "ge", 1
    assert str(context.ascend) == (
        "device_type: DeviceType.kAscend,\nprecision_mode: enforce_fp32,\n"
        "device_id: 2.provider: ge.rank_id: 1."
    )


def test_what_a_runner_is_told_reads_as_text(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.touch()
    parallel = mslite.Context().parallel
    parallel.workers_num = 4
    parallel.config_info = {"model_file": {"mindir_path": "/home/user/model.mindir"}}
    parallel.config_path = str(path)
    assert parallel.config_info == "model_file: mindir_path /home/user/model.mindir"
    assert str(parallel) == (
        "workers num: 4,\nconfig info: model_file: mindir_path /home/user/model.mindir,\n"
        f"config file: {path}."
    )
    parallel.config_path = ""
    assert parallel.config_path == str(path)


def test_two_contexts_share_nothing() -> None:
    one, other = mslite.Context(), mslite.Context()
    one.cpu.thread_num = 7
    one.parallel.config_info = {"a": {"b": "c"}}
    assert other.cpu.thread_num == 0
    assert other.parallel.config_info == ""


def test_an_ascend_that_is_not_here_is_a_warning_when_it_is_set(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_CUSTOM_PATH", "WEIGHTD_TARGET_SUBSTITUTE"):
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.WARNING):
        mslite.Context().target = ["Ascend"]
    assert "ASCEND_HOME_PATH" in caplog.text
    caplog.clear()
    monkeypatch.setenv("WEIGHTD_TARGET_SUBSTITUTE", "cpu")
    mslite.Context().target = ["ascend"]
    assert not caplog.text


def test_a_context_loads_no_engine() -> None:
    program = (
        "import sys; import weightd as mslite; mslite.Context().target = ['ascend'];"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not {"onnxruntime", "onnx", "zmq", "numpy"} & set(done.stdout.decode().split())
