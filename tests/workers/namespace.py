"""The first process of a PID namespace of its own: starts a daemon in it, and workers under PIDs
that others had before them. One JSON command a line in, one JSON answer a line out."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemons import Daemon, Worker
from tests.helpers import wait_until
from weightd.daemon.settings import Settings
from weightd.errors import WeightdError, to_wire
from weightd.ipc.runtime import RuntimeFolder

path = Path(sys.argv[1])
daemon = Daemon(Settings(), RuntimeFolder(path), path.with_name("inner-log"))
daemon.load_lenet()


@contextmanager
def worker_with(pid: int) -> Iterator[Worker]:
    """A worker process under this PID, which must be free."""
    for _ in range(200):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        worker = Worker(path)
        try:
            if worker.pid == pid:
                yield worker
                return
        finally:
            worker.close()
    raise RuntimeError(f"nobody got PID {pid}")


def whitelisted_then_recycled() -> Any:
    """What a process meets that has the number, and even the handle, of one that was allowed."""
    with worker_with(4000) as first:
        handle = daemon.client.allow("lenet", first.pid)
        first.ask("attach", model="lenet", handle=handle)
    with worker_with(4000) as second:
        return {
            "bare": second.ask("attach", model="lenet"),
            "handle": second.ask("attach", model="lenet", handle=handle),
            "allowed": allowed(),
        }


def recycled_in_the_daemons_sleep() -> Any:
    """The same, with a daemon that was stopped meanwhile and sees both at once."""
    with worker_with(4001) as first:
        handle = daemon.client.allow("lenet", first.pid)
        first.ask("attach", model="lenet", handle=handle)
        os.kill(daemon.pid, signal.SIGSTOP)
    with worker_with(4001) as second:
        second.send("attach", model="lenet", handle=handle)
        os.kill(daemon.pid, signal.SIGCONT)
        answer = second.answer()
    wait_until(lambda: not allowed())
    return {"handle": answer, "allowed": allowed()}


def asked_then_recycled() -> Any:
    """Allowing a number whose asker has ended, before and after its new process asks."""
    with worker_with(4002) as first:
        first.ask("current_pid")
    with worker_with(4002) as second:
        refused = allow(4002)
        second.ask("current_pid")  # whose number was meant is no clearer now
        return {"refused": refused, "then": allow(4002), "allowed": allowed()}


def allow(pid: int) -> Any:
    try:
        daemon.client.allow("lenet", pid)
    except WeightdError as error:
        return {"error": to_wire(error)}
    return {}


def allowed() -> Any:
    return list(daemon.client.status().models["lenet"].allowed_pids)


COMMANDS: dict[str, Callable[[], Any]] = {
    f.__name__: f
    for f in (
        whitelisted_then_recycled,
        recycled_in_the_daemons_sleep,
        asked_then_recycled,
        allowed,
    )
}

for line in sys.stdin:
    print(json.dumps(COMMANDS[json.loads(line)["do"]]()), flush=True)
daemon.close()
