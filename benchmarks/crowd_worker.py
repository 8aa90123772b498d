"""`python -m weightd.benchmarks.crowd_worker RUNTIME_DIR NAME ADDRESS`: attaches and detaches again
and again, a model of a daemon or what a bare server gives at ADDRESS.

Out: its PID. In: the way, and a count; out: the seconds of each attach, and when it began and ended
by the clock that all processes share.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

from weightd.benchmarks import bare
from weightd.benchmarks.attach import attach_once
from weightd.benchmarks.parent import heard, tell
from weightd.ipc.runtime import RuntimeFolder


def main(runtime: RuntimeFolder, name: str, address: str) -> None:
    ways = {
        "weightd": partial(attach_once, runtime, name),
        "bare": partial(bare.attach, address),
    }
    tell(pid=os.getpid())
    while (message := heard()) is not None:
        began_s = time.monotonic()
        times_s = [ways[message["way"]]() for _ in range(message["count"])]
        tell(times_s=times_s, began_s=began_s, ended_s=time.monotonic())


if __name__ == "__main__":
    main(RuntimeFolder(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
