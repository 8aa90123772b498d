"""Which cores a Context's thread_affinity_mode and core list mean on this machine."""

import contextlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from weightd.errors import SettingsError

log = logging.getLogger("weightd")

_FREE, _FAST, _MIDDLE = 0, 1, 2  # thread_affinity_mode
_CPUS = Path("/sys/devices/system/cpu")
_SPEEDS = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")


def cores_for(
    mode: int, core_list: Sequence[int], allowed: Collection[int], speeds: Mapping[int, int]
) -> tuple[int, ...]:
    """The cores to bind threads to, the first thread's first; () to bind none.

    core_list counts more than mode. allowed: those that this process may use. speeds: of each core,
    in any unit. Where all are as fast, both modes take them in order. SettingsError for a core that
    the process may not use.
    """
    if core_list:
        missing = sorted(set(core_list) - set(allowed))
        if missing:
            raise SettingsError(
                f"thread_affinity_core_list names core {missing[0]}, which this process may not "
                f"use; it may use {', '.join(map(str, sorted(allowed)))}"
            )
        return tuple(core_list)
    if mode == _FREE:
        return ()
    by_speed = sorted(allowed, key=lambda core: (-speeds.get(core, 0), core))
    if mode == _FAST:
        return tuple(by_speed)
    if mode == _MIDDLE:
        fastest = speeds.get(by_speed[0], 0)
        slower = [core for core in by_speed if speeds.get(core, 0) < fastest]
        return (*slower, *(core for core in by_speed if core not in slower))
    log.warning("thread_affinity_mode %d is none of 0, 1 and 2: threads are not bound", mode)
    return ()


def speeds_of_cores(folder: Path = _CPUS) -> dict[int, int]:
    """How fast each core of this machine can be, as the kernel says; {} where it does not."""
    found: dict[int, int] = {}
    for core in os.sched_getaffinity(0):
        for name in _SPEEDS:
            with contextlib.suppress(OSError, ValueError):
                found[core] = int((folder / f"cpu{core}" / name).read_text())
                break
    return found
