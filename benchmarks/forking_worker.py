"""`python -m weightd.benchmarks.forking_worker JOB`: attaches, predicts, and then forks: how soon
has a child its first answer, when its parent has the model already?

Out: its PID. In: begin; out: ready. Then for each thing it hears it forks. Out, by the child: its
PID; in: begin; out: how long attaching in the child took, and that and its first answer.
"""

import os
import sys
import time

from weightd.backends.attachment import Attachment
from weightd.benchmarks.job import Job
from weightd.benchmarks.opened import Inputs, attached, pid_for, prepared
from weightd.benchmarks.parent import heard, tell


def main(job: Job) -> None:
    inputs = prepared(job)
    tell(pid=pid_for(job))
    if heard() is None:
        return
    with attached(job) as attachment:
        attachment.predict(inputs)
        tell(is_ready=True)
        while heard() is not None:
            child = os.fork()
            if not child:
                _be_child(job, attachment, inputs)
            os.waitpid(child, 0)


def _be_child(job: Job, attachment: Attachment, inputs: Inputs) -> None:
    """Ends the process: nothing of the parent's is cleaned up by its child."""
    status = 1
    try:
        tell(pid=pid_for(job))
        if heard() is not None:
            started_s = time.perf_counter()
            with attachment.attach_in_child() as own:
                opened_s = time.perf_counter() - started_s
                own.predict(inputs)
                tell(opened_s=opened_s, first_s=time.perf_counter() - started_s)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(Job.of(sys.argv[1]))
