"""`python -m weightd.demo.memory_worker private MODEL_FILE | weightd RUNTIME_DIR MODEL`: opens the
large model, predicts, and stays until its input ends, to be measured.

In: the handle and where to put the answer; then anything to measure. Out: its PID; how long the
first answer took; how long an answer takes now, and its memory.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import weightd
from weightd.demo.mlp import INPUT, OUTPUT, an_input
from weightd.demo.onnxruntime import PrivateSession
from weightd.ipc.linux import private_memory
from weightd.weights.arrays import Array

Predict = Callable[[dict[str, Array]], Array]

_TIMES = 7


def private(model_file: str) -> Predict:
    session = PrivateSession(Path(model_file))
    return lambda inputs: session.predict(inputs, OUTPUT)


def shared(stack: ExitStack, runtime_dir: str, name: str, handle: int) -> Predict:
    model = stack.enter_context(weightd.attach(name, handle, runtime_dir=runtime_dir))
    return lambda inputs: model.predict(inputs)[OUTPUT]


def main(kind: str, where: str, name: str = "") -> None:
    tell(pid=weightd.current_pid(runtime_dir=where) if kind == "weightd" else 0)
    order = heard()
    if order is None:
        return
    inputs = {INPUT: an_input()}
    with ExitStack() as stack:
        started_s = time.perf_counter()
        predict = (
            shared(stack, where, name, order["handle"]) if kind == "weightd" else private(where)
        )
        answer = predict(inputs)
        first_s = time.perf_counter() - started_s
        np.save(order["answer"], answer)
        tell(first_s=first_s)
        while heard() is not None:
            tell(again_s=statistics.median(seconds(predict, inputs)), **private_memory())


def seconds(predict: Predict, inputs: dict[str, Array]) -> Iterator[float]:
    for _ in range(_TIMES):
        started_s = time.perf_counter()
        predict(inputs)
        yield time.perf_counter() - started_s


def heard() -> dict[str, Any] | None:
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
