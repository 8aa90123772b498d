"""A user's service on the booted machine: attaches a model and predicts without a pause.

One JSON command a line in, one JSON answer a line out; it ends with its input.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import weightd
from weightd.errors import WeightdError, to_wire

_PAUSE_S = 0.002  # so that it leaves the machine something
attached: list[weightd.Attachment] = []


class Predictions(threading.Thread):
    """The same question again and again. failed: what went wrong; answers: the different ones of
    each version, by digest."""

    def __init__(self, attachment: weightd.Attachment) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self.failed: list[str] = []
        self.answers: dict[int, set[str]] = {}
        self._attachment = attachment
        rng = np.random.default_rng(7)
        self._inputs = {
            name: rng.standard_normal([d if isinstance(d, int) else 1 for d in info.shape]).astype(
                info.dtype
            )
            for name, info in attachment.inputs.items()
        }
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(_PAUSE_S):
            before = self._attachment.version
            try:
                outputs = self._attachment.predict(self._inputs)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test must hear of it
                self.failed.append(repr(error))
                continue
            if self._attachment.version == before:
                raw = b"".join(outputs[name].tobytes() for name in sorted(outputs))
                digest = hashlib.sha256(raw).hexdigest()
                self.answers.setdefault(before, set()).add(digest)
            self.count += 1


predictions: list[Predictions] = []


def current_pid() -> Any:
    return {"pid": weightd.current_pid(), "getpid": os.getpid()}


def attach(model: str) -> Any:
    attached.append(weightd.attach(model))
    predictions.append(Predictions(attached[-1]))
    return {"version": attached[-1].version, "engine": attached[-1].engine}


def report() -> Any:
    """What it has, and what became of its predictions so far."""
    asked = predictions[-1]
    answers = dict(asked.answers)  # the thread may add a version
    return {
        "version": attached[-1].version,
        "connected": attached[-1].is_connected,
        "count": asked.count,
        "failed": asked.failed[:10],
        "answers": {version: sorted(digests) for version, digests in answers.items()},
        "inodes": sorted(mapped_memfds()),
    }


def mapped_memfds() -> set[int]:
    with open("/proc/self/maps", encoding="ascii") as file:
        fields = [line.split(maxsplit=5) for line in file]
    return {int(f[4]) for f in fields if len(f) == 6 and f[5].startswith("/memfd:")}


COMMANDS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (current_pid, attach, report)}

for line in sys.stdin:
    command = json.loads(line)
    try:
        answer = COMMANDS[command.pop("do")](**command)
    except WeightdError as error:
        answer = {"error": to_wire(error)}
    print(json.dumps(answer), flush=True)
