"""What a Context asks of threads and cores, as the Threads of each session."""

import os
from typing import TYPE_CHECKING

from weightd.backends.threads import Threads
from weightd.cores import cores_for, speeds_of_cores
from weightd.errors import SettingsError

if TYPE_CHECKING:
    from weightd.context import CpuSettings


_MOST = 1024


def threads_for(
    cpu: "CpuSettings",
    sessions: int = 1,
    *,
    shares_workspace: bool = False,
    takes_turns: bool = False,
) -> tuple[Threads, ...]:
    """For each of so many sessions. thread_num 0: as many as there are cores for each. Cores are
    dealt out in order, and around again when there are too few. SettingsError when so many would
    take all that the machine has."""
    if max(cpu.thread_num, sessions) > _MOST:
        raise SettingsError(
            f"thread_num is {cpu.thread_num}, for each of {sessions} sessions: more than {_MOST} "
            "of either help on no machine"
        )
    allowed = os.sched_getaffinity(0)
    count = cpu.thread_num or max(1, len(allowed) // sessions)
    operators = max(1, min(cpu.inter_op_parallel_num, count))
    cores = cores_for(
        cpu.thread_affinity_mode, cpu.thread_affinity_core_list, allowed, speeds_of_cores()
    )
    return tuple(
        Threads(count, operators, _dealt(cores, n * count, count), shares_workspace, takes_turns)
        for n in range(sessions)
    )


def workers_for(cpu: "CpuSettings", asked: int) -> int:
    """How many workers a runner has. 0 asked for: as many as the cores suffice for."""
    return asked or max(1, len(os.sched_getaffinity(0)) // max(1, cpu.thread_num))


def _dealt(cores: tuple[int, ...], first: int, count: int) -> tuple[int, ...]:
    return tuple(cores[(first + n) % len(cores)] for n in range(count)) if cores else ()
