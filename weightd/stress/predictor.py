"""`python -m weightd.stress.predictor RUNTIME_DIR MODEL ANSWERS PAUSE_S`: predicts until told to
stop, and finds out for each answer which weights it is of.

Out: its PID. In: the handle. Out: what it saw since the last time, five times a second: how many
answers were of which weights while which versions were in use. In: anything to stop.
"""

import json
import os
import select
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from weightd.backends.attachment import Attachment
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.demo.digits import INPUT, OUTPUT
from weightd.errors import BrokenPeerError, WeightdError
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder

_REPORT_S = 0.2
_RETRY_S = 0.05
_PATIENCE_S = 60.0


class Watched(Attachment):
    """An attachment that remembers which versions it switched to: what is read before and after a
    prediction may be the same number, and another one was in use between the two."""

    seen: list[int]  # made before the first switch, which may come within __init__

    def switch(self, mapped: MappedVersion) -> float:
        self.__dict__.setdefault("seen", []).append(mapped.number)
        return super().switch(mapped)

    def mark(self) -> int:
        return len(self.__dict__.setdefault("seen", []))

    def in_use_since(self, mark: int, version: int) -> tuple[int, ...]:
        """Which versions a prediction may have run on that began with `version` after `mark`."""
        return tuple(sorted({version, *self.__dict__["seen"][max(0, mark - 1) :]}))


class Tally:
    """What was seen since the last report."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self.clear()

    def clear(self) -> None:
        self.failed: Counter[str] = Counter()
        self.torn = 0
        self.seen: Counter[tuple[tuple[int, ...], int]] = Counter()

    def answered(self, answer: bytes, versions: tuple[int, ...]) -> None:
        if answer in self._answers:
            self.seen[versions, self._answers.index(answer)] += 1
        else:
            self.torn += 1

    def report(self) -> dict[str, Any]:
        seen = [[list(versions), index, count] for (versions, index), count in self.seen.items()]
        return {"failed": dict(self.failed), "torn": self.torn, "seen": seen}


def main(runtime_dir: str, name: str, answers: Path, pause_s: float) -> None:
    with np.load(answers, allow_pickle=False) as file:
        image, known = file["image"], [answer.tobytes() for answer in file["answers"]]
    folder = RuntimeFolder(Path(runtime_dir))
    tell(pid=os.getpid())
    line = sys.stdin.readline()
    if not line:
        return
    tally = Tally(known)
    with attached(folder, name, json.loads(line)["handle"]) as model:
        tell(attached=True, version=model.version)
        next_report_s = 0.0
        while not select.select([sys.stdin], [], [], pause_s)[0]:
            ask(model, tally, image)
            if time.monotonic() > next_report_s:
                next_report_s = time.monotonic() + _REPORT_S
                tell(**tally.report(), version=model.version)
                tally.clear()
        tell(**tally.report(), version=model.version, has_stopped=True)


def attached(folder: RuntimeFolder, name: str, handle: int) -> Watched:
    """Attach; a daemon that is away just now is waited for."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lease = Lease(folder, timeout_s=10)
            try:
                return Watched(lease, lease.attach(name, handle), threads=(Threads(1),))
            except BaseException:
                lease.close()
                raise
        except BrokenPeerError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(_RETRY_S)


def ask(model: Watched, tally: Tally, image: Any) -> None:
    mark = model.mark()
    version = model.version
    try:
        answer = model.predict({INPUT: image})[OUTPUT]
    except WeightdError as error:
        tally.failed[type(error).__name__] += 1
        sys.stderr.write(f"{error}\n")
        return
    tally.answered(answer.tobytes(), model.in_use_since(mark, version))


def tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
