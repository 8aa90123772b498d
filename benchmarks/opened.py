"""A model as a worker process has it, by either way; everything it needs is imported before."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from weightd.backends.attaching import attach, current_pid
from weightd.backends.attachment import Attachment
from weightd.backends.base import named
from weightd.benchmarks.job import Job
from weightd.benchmarks.onnxruntime import PrivateSession
from weightd.benchmarks.weights import read_tensors
from weightd.weights.arrays import Array

_ENGINES = ("prepacked", "plain")  # where the first cannot run, the second does

Inputs = dict[str, Array]
Outputs = dict[str, Array]


def prepared(job: Job) -> Inputs:
    """The inputs. After this nothing is imported any more, whichever way the model is opened."""
    for engine in {*_ENGINES, job.engine}:
        named(engine)
    return read_tensors(Path(job.inputs))


def pid_for(job: Job) -> int:
    """This process as it must be allowed; 0 where nobody asks."""
    return current_pid(runtime_dir=job.runtime_dir) if job.kind == "weightd" else 0


def attached(job: Job) -> Attachment:
    return attach(job.name, runtime_dir=job.runtime_dir)


@contextmanager
def opened(job: Job) -> Iterator[Callable[[Inputs], Outputs]]:
    """What predicts, as long as this lasts."""
    if job.kind == "private":
        yield PrivateSession(Path(job.model_file)).predict
        return
    with attached(job) as attachment:
        yield attachment.predict


def as_bytes(outputs: Mapping[str, Array]) -> bytes:
    """All of an answer, to compare bit for bit."""
    return b"".join(outputs[name].tobytes() for name in sorted(outputs))
