"""`python -m weightd.demo.lenet_worker RUNTIME_DIR MODEL ANSWERS`: predicts digit after digit until
told to stop, and checks each answer bit for bit.

Out: its PID, then where it stands, five times a second. In: the handle, then anything to stop.
"""

import json
import select
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import weightd
from weightd.demo.digits import INPUT, OUTPUT
from weightd.errors import WeightdError

_REPORT_S = 0.2


class Tally:
    """What the answers were. `early` and `final`: the answers of the two versions, to compare."""

    def __init__(self, early: list[bytes], final: list[bytes]) -> None:
        self._known = list(zip(early, final, strict=True))
        self.requests = self.failed = self.torn = 0
        self.by_version = [0, 0]
        self._is_right = np.zeros(len(early), bool)
        self._version = 0
        self._since_change = 0

    def answered(self, index: int, answer: bytes, is_right: bool, version: int) -> None:
        self.requests += 1
        self._is_right[index] = is_right
        self._since_change = self._since_change + 1 if version == self._version else 0
        self._version = version
        if answer in self._known[index]:
            self.by_version[self._known[index].index(answer)] += 1
        else:
            self.torn += 1

    def no_answer(self) -> None:
        self.requests += 1
        self.failed += 1

    def report(self) -> dict[str, Any]:
        """accuracy: of the last answer to each image. is_settled: all those are of one version."""
        return {
            "version": self._version,
            "requests": self.requests,
            "failed": self.failed,
            "torn": self.torn,
            "by_version": self.by_version,
            "accuracy": float(self._is_right.mean()),
            "is_settled": self._since_change > len(self._known),
        }


def main(runtime_dir: str, name: str, answers: Path) -> None:
    with np.load(answers, allow_pickle=False) as file:
        images, labels = list(file["images"]), list(file["labels"])
        tally = Tally(*([a.tobytes() for a in file[which]] for which in ("early", "final")))
    tell(pid=weightd.current_pid(runtime_dir=runtime_dir))
    line = sys.stdin.readline()
    if not line:
        return
    with weightd.attach(name, json.loads(line)["handle"], runtime_dir=runtime_dir) as model:
        next_report_s = 0.0
        while not stop_asked():
            for index, image in enumerate(images):
                ask(model, tally, index, image, labels[index])
            if time.monotonic() > next_report_s:
                next_report_s = time.monotonic() + _REPORT_S
                tell(**tally.report())
    tell(**tally.report(), has_stopped=True)


def ask(model: weightd.Attachment, tally: Tally, index: int, image: Any, label: int) -> None:
    try:
        answer = model.predict({INPUT: image})[OUTPUT]
    except WeightdError as error:
        tally.no_answer()
        sys.stderr.write(f"{error}\n")
        return
    tally.answered(index, answer.tobytes(), int(answer.argmax()) == label, model.version)


def stop_asked() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
