"""A worker that does what the test asks: one JSON command a line in, one JSON answer a line out."""

import hashlib
import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import weightd
from weightd.errors import WeightdError, to_wire

runtime_dir = sys.argv[1]
attached: dict[str, weightd.Attachment] = {}


def current_pid() -> Any:
    return {"pid": weightd.current_pid(runtime_dir=runtime_dir), "getpid": os.getpid()}


def attach(model: str, handle: int | None = None) -> Any:
    attached[model] = weightd.attach(model, handle, runtime_dir=runtime_dir)
    return {"version": attached[model].version, "engine": attached[model].engine}


def predict(model: str, count: int = 1, seed: int = 0) -> Any:
    """Predict `count` times on random input made from `seed`; the digests of the answers."""
    model_here = attached[model]
    rng = np.random.default_rng(seed)
    inputs = {
        name: rng.standard_normal([d if isinstance(d, int) else 1 for d in info.shape]).astype(
            info.dtype
        )
        for name, info in model_here.inputs.items()
    }
    digests = {}
    for _ in range(count):
        outputs = model_here.predict(inputs)
        raw = b"".join(outputs[name].tobytes() for name in sorted(outputs))
        digests[hashlib.sha256(raw).hexdigest()] = model_here.version
    return {"digests": sorted(digests), "version": model_here.version}


def read(model: str, name: str) -> Any:
    return {"values": attached[model].weights[name].tolist()}


def state(model: str) -> Any:
    here = attached[model]
    return {"version": here.version, "connected": here.is_connected, "lag": here.lag}


def wait_for_version(model: str, number: int) -> Any:
    attached[model].wait_for_version(number, timeout_s=10)
    return state(model)


def wait_for_the_end() -> None:
    """Until the test closes the pipe; what it writes is the parent's to read."""
    poller = select.poll()
    poller.register(sys.stdin.fileno(), 0)
    poller.poll()


def fork_and_wait(model: str) -> Any:
    """Fork a child that inherits everything and waits; what predict says in it is its answer."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = predict(model)
        except WeightdError as error:
            answer = {"error": to_wire(error)}
        os.write(write_end, json.dumps(answer).encode())
        wait_for_the_end()
        os._exit(0)
    return {"child": pid, "in_child": json.loads(os.read(read_end, 65536))}


def detach(model: str) -> Any:
    attached.pop(model).close()
    return {}


COMMANDS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (current_pid, attach, predict, read, state, wait_for_version, fork_and_wait, detach)
}

for line in sys.stdin:
    command = json.loads(line)
    try:
        answer = COMMANDS[command.pop("do")](**command)
    except WeightdError as error:
        answer = {"error": to_wire(error)}
    print(json.dumps(answer), flush=True)
