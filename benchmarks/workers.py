"""Worker processes as the benchmark sees them: started, allowed, asked, gone at the end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from weightd.benchmarks.job import Job, Kind
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.weights import write_tensors
from weightd.demo.process import Child

_ANSWER_S = 180.0
_numbers = count(1)


def module_command(module: str, *arguments: object) -> list[str]:
    """The argv of a program of this folder."""
    return [sys.executable, "-P", "-m", f"weightd.benchmarks.{module}", *map(str, arguments)]


class Worker:
    """One worker process. Starting waits for nothing: several may start at once."""

    def __init__(self, subject: Subject, job: Job, module: str) -> None:
        self._client, self._model = subject.client, subject.name
        name = f"{job.kind}-{next(_numbers)}"
        self._child = Child(name, module_command(module, job.words()), subject.place.folder)

    def admit(self) -> None:
        """Wait until it says who it is, and let it attach."""
        pid = self.receive()["pid"]
        if pid:
            self._client.allow(self._model, pid)

    def send(self, **message: Any) -> None:
        self._child.send(**message)

    def receive(self) -> dict[str, Any]:
        return self._child.receive(timeout_s=_ANSWER_S)

    def ask(self, **message: Any) -> dict[str, Any]:
        self.send(**message)
        return self.receive()

    def close(self) -> None:
        self._child.close()


@contextmanager
def starting(
    subject: Subject, kind: Kind, *, module: str = "worker", **more: Any
) -> Iterator[Worker]:
    """A worker of this model, not yet admitted. more: of its Job."""
    inputs = subject.place.folder / "inputs.safetensors"
    write_tensors(subject.smallest, inputs)
    job = Job(
        kind=kind,
        model_file=str(subject.file),
        runtime_dir=str(subject.client.runtime_dir),
        name=subject.name,
        engine=subject.engine,
        inputs=str(inputs),
        **more,
    )
    worker = Worker(subject, job, module)
    try:
        yield worker
    finally:
        worker.close()
