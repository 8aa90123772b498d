"""`python -m weightd.benchmarks.api_worker FILE INPUTS FOLDER`: a process that does with the API of
MindSpore Lite what its parent says, FOLDER its runtime folder; or, to compare, with onnxruntime.

    {"do": "pid"}                                  -> its PID, for the list of who shares
    {"do": "build", "config": {...}}               -> a Model, predicted once; its handle
    {"do": "build", "workers": 2}                  -> a ModelParallelRunner
    {"do": "build", "is_bare": true}               -> a private session of onnxruntime
    {"do": "predict", "for_s": 2.0, "threads": 2}  -> how many predictions in that time
    {"do": "measure"}                              -> its memory
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightd.benchmarks.onnxruntime import PrivateSession
from weightd.benchmarks.parent import heard, tell
from weightd.benchmarks.weights import read_tensors
from weightd.context import Context
from weightd.ipc.linux import private_memory
from weightd.model import Model, ModelType
from weightd.runner import ModelParallelRunner
from weightd.tensor import Tensor
from weightd.weights.arrays import Array

Predict = Callable[[], object]


def lone_context() -> Context:
    """One thread for each session."""
    context = Context()
    context.cpu.thread_num = 1
    return context


class Process:
    """What the process has built."""

    def __init__(self, file: Path, inputs: dict[str, Array]) -> None:
        self._file = file
        self._inputs = inputs
        self._model = Model()
        self._predict: Predict = lambda: None

    def pid(self) -> dict[str, Any]:
        return {"pid": self._model.get_model_info("current_pid")}

    def build(
        self, config: dict[str, Any] | None = None, workers: int = 0, *, is_bare: bool = False
    ) -> dict[str, Any]:
        tensors = [Tensor(array) for array in self._inputs.values()]
        if is_bare:
            session = PrivateSession(self._file)
            self._predict = lambda: session.predict(self._inputs)
        elif workers:
            context = lone_context()
            context.parallel.workers_num = workers
            runner = ModelParallelRunner()
            runner.build_from_file(str(self._file), context)
            self._predict = lambda: runner.predict(tensors)
        else:
            self._model.build_from_file(
                str(self._file), ModelType.MINDIR, lone_context(), config_dict=config
            )
            self._predict = lambda: self._model.predict(tensors)
        self._predict()
        return {"handle": self._model.get_model_info("shareable_weight_mem_handle")}

    def predict(self, for_s: float, threads: int) -> dict[str, Any]:
        end_s = time.monotonic() + for_s
        counts = [0] * threads

        def repeat(number: int) -> None:
            while time.monotonic() < end_s:
                self._predict()
                counts[number] += 1

        began_s = time.monotonic()
        running = [threading.Thread(target=repeat, args=(n,)) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return {"count": sum(counts), "took_s": time.monotonic() - began_s}

    def measure(self) -> dict[str, Any]:
        return dict(private_memory())


def main(file: str, inputs: str, folder: str) -> None:
    os.environ["WEIGHTD_RUNTIME_DIR"] = folder
    process = Process(Path(file), read_tensors(Path(inputs)))
    while (message := heard()) is not None:
        tell(**getattr(process, message.pop("do"))(**message))


if __name__ == "__main__":
    main(*sys.argv[1:])
