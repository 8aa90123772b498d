"""`python -m weightd.benchmarks.worker JOB`: opens a model, predicts once, stays to be measured.

Out: its PID. In: begin. Out: how long opening took, and opening and the first answer, and which
modules had to be imported meanwhile (none, or the time is not that of the model). Then in: anything
to measure, and out: its memory.
"""

import sys
import time

from weightd.benchmarks.job import Job
from weightd.benchmarks.opened import opened, pid_for, prepared
from weightd.benchmarks.parent import heard, tell
from weightd.ipc.linux import private_memory


def main(job: Job) -> None:
    inputs = prepared(job)
    tell(pid=pid_for(job))
    if heard() is None:
        return
    before = set(sys.modules)
    started_s = time.perf_counter()
    with opened(job) as predict:
        opened_s = time.perf_counter() - started_s
        predict(inputs)
        first_s = time.perf_counter() - started_s
        imported = sorted(sys.modules.keys() - before)
        tell(opened_s=opened_s, first_s=first_s, imported=imported)
        while heard() is not None:
            tell(**private_memory())


if __name__ == "__main__":
    main(Job.of(sys.argv[1]))
