"""What tests ask of the processes that run workers/sharing_worker.py."""

from pathlib import Path
from typing import Any

from tests.daemons import LENET, Worker


def pid_of(process: Worker) -> str:
    pid: str = process.ask("pid")["pid"]
    return pid


def share(master: Worker, *workers: Worker, file: Path = LENET, **more: str) -> str:
    """Build the master's model for these workers; returns the handle."""
    pids = ", ".join(pid_of(worker) for worker in workers)
    section = {"shareable_weight_pid_list": pids, **more}
    answer = master.ask("build", file=str(file), config={"ascend_context": section})
    assert "error" not in answer
    handle: str = answer["handle"]
    assert 0 <= int(handle) < 2**64
    return handle


def use(worker: Worker, handle: str, file: Path = LENET) -> Any:
    """Build the worker's model with the handle; returns its answer, which may be an error."""
    config = {"ascend_context": {"shareable_weight_mem_handle": handle}}
    return worker.ask("build", file=str(file), config=config)


def digest_of(process: Worker) -> str:
    digest: str = process.ask("predict")["digest"]
    return digest
