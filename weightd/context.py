"""MindSpore Lite's Context: where a model runs, with how many threads, and in which precision.

Plain values, checked when they are set. What they come to is decided when a model is built:
targets.py says where, allotment.py with which threads on which cores.
"""

import os
from functools import partial

from weightd.checks import Kind, Setting, check_each, check_instance
from weightd.targets import TARGETS, warn_without_ascend

_CPU_PRECISIONS = ("enforce_fp32", "preferred_fp16")
_ASCEND_PRECISIONS = (
    "enforce_fp32",
    "preferred_fp32",
    "enforce_fp16",
    "enforce_origin",
    "preferred_optimal",
)


def _plain(name: str, kind: type[Kind]) -> Setting[Kind]:
    """Of this class, and first its empty value."""
    return Setting(kind, partial(check_instance, name, kind=kind))


def _count(name: str) -> Setting[int]:
    def check(value: object) -> int:
        found = check_instance(name, value, int)
        if found < 0:
            raise ValueError(f"{name} must be a non-negative int.")
        return found

    return Setting(int, check)


def _precision(name: str, known: tuple[str, ...], first: str) -> Setting[str]:
    def check(value: object) -> str:
        found = check_instance(name, value, str)
        if found not in known:
            raise ValueError(f"{name} must be in [{', '.join(known)}], but got {found}.")
        return found

    return Setting(lambda: first, check)


class Context:
    """What a model is built with.

    target: a list of 'cpu', 'gpu' and 'ascend', in any case; [] and None are ['cpu']. cpu, gpu,
    ascend: settings of each; parallel: of a ModelParallelRunner. Wrong types raise TypeError, wrong
    values ValueError, when they are set. group_info_file, of distributed inference, is kept and not
    used.
    """

    group_info_file = _plain("group_info_file", str)

    def __init__(self) -> None:
        self._target = ["cpu"]
        self.cpu = CpuSettings()
        self.gpu = GpuSettings()
        self.ascend = AscendSettings()
        self.parallel = ParallelSettings()

    def __str__(self) -> str:
        return f"target: {self.target}."

    @property
    def target(self) -> list[str]:
        """As it was set. Without an Ascend, 'ascend' is a warning here, and an error when a model
        is built, unless $WEIGHTD_TARGET_SUBSTITUTE says what to take instead."""
        return self._target

    @target.setter
    def target(self, target: list[str] | None) -> None:
        found = check_each("target", target or ["cpu"], str)
        for element in found:
            if element.lower() not in TARGETS:
                raise ValueError(
                    f"target elements must be in {list(TARGETS)}, but got {element.lower()}."
                )
        if any(element.lower() == "ascend" for element in found):
            warn_without_ascend(found, os.environ)
        self._target = found


class CpuSettings:
    """thread_num, inter_op_parallel_num: 0 for what suits the machine. thread_affinity_mode: 0 for
    the kernel's choice, 1 for the fastest cores first, 2 for the middle ones first.
    thread_affinity_core_list: cores by number, which count more than the mode."""

    # onnxruntime's CPU engine cannot honour 'preferred_fp16': the log says so at every build.
    precision_mode = _precision("cpu_precision_mode", _CPU_PRECISIONS, "enforce_fp32")
    thread_num = _count("cpu_thread_num")
    inter_op_parallel_num = _count("cpu_inter_op_parallel_num")
    thread_affinity_mode = _plain("cpu_thread_affinity_mode", int)
    thread_affinity_core_list = Setting[list[int]](
        list, partial(check_each, "cpu_thread_affinity_core_list", kind=int)
    )

    def __str__(self) -> str:
        return (
            "device_type: DeviceType.kCPU,\n"
            f"precision_mode: {self.precision_mode},\n"
            f"thread_num: {self.thread_num},\n"
            f"inter_op_parallel_num: {self.inter_op_parallel_num},\n"
            f"thread_affinity_mode: {self.thread_affinity_mode},\n"
            f"thread_affinity_core_list: {self.thread_affinity_core_list}."
        )


class GpuSettings:
    """device_id: which GPU. rank_id and group_size are of distributed inference, and fixed."""

    precision_mode = _precision("gpu_precision_mode", _CPU_PRECISIONS, "enforce_fp32")
    device_id = _count("gpu_device_id")

    def __str__(self) -> str:
        return (
            "device_type: DeviceType.kGPU,\n"
            f"precision_mode: {self.precision_mode},\n"
            f"device_id: {self.device_id},\n"
            f"rank_id: {self.rank_id},\n"
            f"group_size: {self.group_size}."
        )

    @property
    def rank_id(self) -> int:
        return 0

    @property
    def group_size(self) -> int:
        return 1


class AscendSettings:
    """Kept as they are set; weightd has no Ascend to set them on."""

    precision_mode = _precision("ascend_precision_mode", _ASCEND_PRECISIONS, "")
    device_id = _count("ascend_device_id")
    rank_id = _count("ascend_rank_id")
    provider = _plain("ascend_provider", str)

    def __str__(self) -> str:
        return (
            "device_type: DeviceType.kAscend,\n"
            f"precision_mode: {self.precision_mode},\n"
            f"device_id: {self.device_id}."
            f"provider: {self.provider}."
            f"rank_id: {self.rank_id}."
        )


class ParallelSettings:
    """workers_num: how many predictions a ModelParallelRunner makes at once; 0 for what suits the
    machine. config_path, config_info: as config_path and config_dict of Model.build_from_file.
    device_ids: of the workers, in turn; without meaning on a CPU."""

    def __init__(self) -> None:
        self._workers_num = 0
        self._config: dict[str, dict[str, str]] = {}
        self._config_path = ""
        self._device_ids: list[int] = []

    def __str__(self) -> str:
        return (
            f"workers num: {self.workers_num},\n"
            f"config info: {self.config_info},\n"
            f"config file: {self.config_path}."
        )

    @property
    def workers_num(self) -> int:
        return self._workers_num

    @workers_num.setter
    def workers_num(self, count: int) -> None:
        check_instance("workers_num", count, int)
        if count < 0:
            raise ValueError("Set parallel failed, workers_num must be a non-negative int.")
        self._workers_num = count

    @property
    def config_info(self) -> str:
        """What was set, as text: a line for each section."""
        return "\n".join(
            f"{section}: " + " ".join(f"{key} {value}" for key, value in values.items())
            for section, values in self._config.items()
        )

    @config_info.setter
    def config_info(self, config_info: dict[str, dict[str, str]]) -> None:
        check_instance("config_info", config_info, dict)
        for section, values in config_info.items():
            check_instance("config_info_key", section, str)
            check_instance("config_info_value", values, dict)
            for key, value in values.items():
                check_instance("config_info_value_key", key, str)
                check_instance("config_info_value_value", value, str)
        self._config |= {section: dict(values) for section, values in config_info.items()}

    @property
    def config_dict(self) -> dict[str, dict[str, str]]:
        """What was set as config_info, as it was set. weightd's own."""
        return self._config

    @property
    def config_path(self) -> str:
        return self._config_path

    @config_path.setter
    def config_path(self, path: str) -> None:
        check_instance("config_path", path, str)
        if path:
            if not os.path.exists(path):
                raise ValueError("Set parallel failed, config_path does not exist!")
            self._config_path = path

    @property
    def device_ids(self) -> list[int]:
        return self._device_ids

    @device_ids.setter
    def device_ids(self, numbers: list[int]) -> None:
        check_each("device_ids", numbers, int)
        if any(number < 0 for number in numbers):
            raise ValueError("Set parallel failed, device_ids contain a negative number.")
        self._device_ids = numbers
