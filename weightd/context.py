"""MindSpore Lite's Context: where a model runs, with how many threads, and in which precision.

Plain values, checked when they are set. What they come to is decided when a model is built:
targets.py says where, allotment.py with which threads on which cores.
"""

import os

from weightd.checks import check_each, check_instance
from weightd.targets import TARGETS, warn_without_ascend

_CPU_PRECISIONS = ("enforce_fp32", "preferred_fp16")
_ASCEND_PRECISIONS = (
    "enforce_fp32",
    "preferred_fp32",
    "enforce_fp16",
    "enforce_origin",
    "preferred_optimal",
)


class Context:
    """What a model is built with.

    target: a list of 'cpu', 'gpu' and 'ascend', in any case; [] and None are ['cpu']. cpu, gpu,
    ascend: settings of each; parallel: of a ModelParallelRunner. Wrong types raise TypeError, wrong
    values ValueError, when they are set.
    """

    def __init__(self) -> None:
        self._target = ["cpu"]
        self._group_info_file = ""
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

    @property
    def group_info_file(self) -> str:
        """Of distributed inference, which weightd does not do: kept, and not used."""
        return self._group_info_file

    @group_info_file.setter
    def group_info_file(self, path: str) -> None:
        self._group_info_file = check_instance("group_info_file", path, str)


class CpuSettings:
    """thread_num, inter_op_parallel_num: 0 for what suits the machine. thread_affinity_mode: 0 for
    the kernel's choice, 1 for the fastest cores first, 2 for the middle ones first.
    thread_affinity_core_list: cores by number, which count more than the mode."""

    def __init__(self) -> None:
        self._precision_mode = "enforce_fp32"
        self._thread_num = 0
        self._inter_op_parallel_num = 0
        self._thread_affinity_mode = 0
        self._thread_affinity_core_list: list[int] = []

    def __str__(self) -> str:
        return (
            "device_type: DeviceType.kCPU,\n"
            f"precision_mode: {self.precision_mode},\n"
            f"thread_num: {self.thread_num},\n"
            f"inter_op_parallel_num: {self.inter_op_parallel_num},\n"
            f"thread_affinity_mode: {self.thread_affinity_mode},\n"
            f"thread_affinity_core_list: {self.thread_affinity_core_list}."
        )

    @property
    def precision_mode(self) -> str:
        """'enforce_fp32' or 'preferred_fp16', which onnxruntime's CPU engine cannot honour: it is
        said in the log when a model is built."""
        return self._precision_mode

    @precision_mode.setter
    def precision_mode(self, mode: str) -> None:
        self._precision_mode = _precision("cpu_precision_mode", mode, _CPU_PRECISIONS)

    @property
    def thread_num(self) -> int:
        return self._thread_num

    @thread_num.setter
    def thread_num(self, count: int) -> None:
        self._thread_num = _count("cpu_thread_num", count)

    @property
    def inter_op_parallel_num(self) -> int:
        return self._inter_op_parallel_num

    @inter_op_parallel_num.setter
    def inter_op_parallel_num(self, count: int) -> None:
        self._inter_op_parallel_num = _count("cpu_inter_op_parallel_num", count)

    @property
    def thread_affinity_mode(self) -> int:
        return self._thread_affinity_mode

    @thread_affinity_mode.setter
    def thread_affinity_mode(self, mode: int) -> None:
        self._thread_affinity_mode = check_instance("cpu_thread_affinity_mode", mode, int)

    @property
    def thread_affinity_core_list(self) -> list[int]:
        return self._thread_affinity_core_list

    @thread_affinity_core_list.setter
    def thread_affinity_core_list(self, cores: list[int]) -> None:
        self._thread_affinity_core_list = check_each("cpu_thread_affinity_core_list", cores, int)


class GpuSettings:
    """device_id: which GPU. rank_id and group_size are of distributed inference, and fixed."""

    def __init__(self) -> None:
        self._precision_mode = "enforce_fp32"
        self._device_id = 0

    def __str__(self) -> str:
        return (
            "device_type: DeviceType.kGPU,\n"
            f"precision_mode: {self.precision_mode},\n"
            f"device_id: {self.device_id},\n"
            f"rank_id: {self.rank_id},\n"
            f"group_size: {self.group_size}."
        )

    @property
    def precision_mode(self) -> str:
        return self._precision_mode

    @precision_mode.setter
    def precision_mode(self, mode: str) -> None:
        self._precision_mode = _precision("gpu_precision_mode", mode, _CPU_PRECISIONS)

    @property
    def device_id(self) -> int:
        return self._device_id

    @device_id.setter
    def device_id(self, number: int) -> None:
        self._device_id = _count("gpu_device_id", number)

    @property
    def rank_id(self) -> int:
        return 0

    @property
    def group_size(self) -> int:
        return 1


class AscendSettings:
    """Kept as they are set; weightd has no Ascend to set them on."""

    def __init__(self) -> None:
        self._precision_mode = ""
        self._device_id = 0
        self._rank_id = 0
        self._provider = ""

    def __str__(self) -> str:
        return (
            "device_type: DeviceType.kAscend,\n"
            f"precision_mode: {self.precision_mode},\n"
            f"device_id: {self.device_id}."
            f"provider: {self.provider}."
            f"rank_id: {self.rank_id}."
        )

    @property
    def precision_mode(self) -> str:
        return self._precision_mode

    @precision_mode.setter
    def precision_mode(self, mode: str) -> None:
        self._precision_mode = _precision("ascend_precision_mode", mode, _ASCEND_PRECISIONS)

    @property
    def device_id(self) -> int:
        return self._device_id

    @device_id.setter
    def device_id(self, number: int) -> None:
        self._device_id = _count("ascend_device_id", number)

    @property
    def rank_id(self) -> int:
        return self._rank_id

    @rank_id.setter
    def rank_id(self, number: int) -> None:
        self._rank_id = _count("ascend_rank_id", number)

    @property
    def provider(self) -> str:
        return self._provider

    @provider.setter
    def provider(self, provider: str) -> None:
        self._provider = check_instance("ascend_provider", provider, str)


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


def _precision(name: str, mode: object, known: tuple[str, ...]) -> str:
    found = check_instance(name, mode, str)
    if found not in known:
        raise ValueError(f"{name} must be in [{', '.join(known)}], but got {found}.")
    return found


def _count(name: str, value: object) -> int:
    found = check_instance(name, value, int)
    if found < 0:
        raise ValueError(f"{name} must be a non-negative int.")
    return found
