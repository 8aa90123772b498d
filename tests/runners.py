"""A ModelParallelRunner that is opened, a model that takes as long as one likes, and threads that
ask it."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.nets import model, port
from weightd import Context, ModelParallelRunner, Tensor

LONG, SHORT = 30_000, 1  # turns of looping(); a turn takes some microseconds


def context(workers: int = 2, threads: int = 1, cores: tuple[int, ...] = ()) -> Context:
    found = Context()
    found.parallel.workers_num = workers
    found.cpu.thread_num = threads
    found.cpu.thread_affinity_core_list = list(cores)
    return found


def opened(path: Path, wanted: Context | None = None) -> ModelParallelRunner:
    """The caller closes it."""
    runner = ModelParallelRunner()
    runner.build_from_file(str(path), wanted or context())
    return runner


def looping() -> onnx.ModelProto:
    """y = n @ w, n times over: a prediction that takes as long as one likes."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
        ],
        "body",
        [port("i", [], 7), port("go_on", [], TensorProto.BOOL), port("state", [1, 64])],
        [port("goes_on", [], TensorProto.BOOL), port("next", [1, 64])],
    )
    nodes = [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)]
    return model(
        nodes,
        {"w": np.eye(64, dtype=np.float32), "x": np.ones((1, 64), np.float32)},
        inputs=[port("n", [], TensorProto.INT64)],
        outputs=[port("y", [1, 64])],
    )


def turns(count: int) -> Tensor:
    return Tensor(np.array(count))


class Asking:
    """A thread that predicts once."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.fault: BaseException | None = None
        self.thread = threading.Thread(target=self._ask, args=(call,))
        self.thread.start()

    def _ask(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            self.fault = error

    def join(self) -> BaseException | None:
        self.thread.join()
        return self.fault
