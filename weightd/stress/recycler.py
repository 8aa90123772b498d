"""`python -m weightd.stress.recycler RUNTIME_DIR MODEL`: has a PID used again.

In: anything. Out: the PID of a new process, {"pid": N}. In, once that was allowed: {"handle": H}.
That process ends, another one gets its number and attaches under the handle. Out: {"met": the class
of the error that it met, null if it was let in}, or {"cannot": why}. Light, and of one thread: it
forks.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from weightd.errors import BrokenPeerError, WeightdError
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_TRIES = 100
_PATIENCE_S = 20.0
_ANOTHER_NUMBER = "another number"


def main(folder: RuntimeFolder, model: str) -> None:
    while sys.stdin.readline():
        told, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(say)
            os.read(told, 1)
            os._exit(0)
        os.close(told)
        tell(pid=pid)
        line = sys.stdin.readline()
        os.close(say)
        os.waitpid(pid, 0)
        if line:
            tell(**recycled(folder, model, pid, json.loads(line)["handle"]))


def recycled(folder: RuntimeFolder, model: str, pid: int, handle: int) -> dict[str, Any]:
    for _ in range(_TRIES):
        try:
            _LAST_PID.write_text(str(pid - 1))
        except OSError as error:
            return {"cannot": f"PIDs cannot be chosen here ({error.strerror})"}
        met = _forked(folder, model, pid, handle)
        if met != _ANOTHER_NUMBER:
            return {"met": met}
    return {"cannot": f"PID {pid} went to others"}


def _forked(folder: RuntimeFolder, model: str, wanted: int, handle: int) -> str | None:
    told, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            has_it = os.getpid() == wanted
            answer = _met(folder, model, handle) if has_it else _ANOTHER_NUMBER
            os.write(say, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(say)
    raw = os.read(told, 65536)
    os.close(told)
    os.waitpid(pid, 0)
    met: str | None = json.loads(raw or b'"an error of ours"')
    return met


def _met(folder: RuntimeFolder, model: str, handle: int) -> str | None:
    """The class of the error that attaching met; a daemon that is away is waited for."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lease = Lease(folder, timeout_s=5)
            try:
                lease.attach(model, handle).close()
            finally:
                lease.close()
        except BrokenPeerError as error:
            if time.monotonic() > deadline_s:
                return type(error).__name__
        except WeightdError as error:
            return type(error).__name__
        else:
            return None
        time.sleep(0.02)


def tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(RuntimeFolder(Path(sys.argv[1])), sys.argv[2])
