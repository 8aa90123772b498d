"""`python -m weightd.benchmarks.busy_worker JOB`: predicts without a break while versions come and
go, and compares each answer, bit for bit, with those that the versions give.

Out: its PID. In: begin; out: ready. Then it predicts. In: count; out: how many predictions so far.
In: anything else; out: what it found.
"""

import sys
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from weightd.benchmarks.job import Job
from weightd.benchmarks.opened import as_bytes, opened, pid_for, prepared
from weightd.benchmarks.parent import has_spoken, heard, tell
from weightd.errors import WeightdError


class Tally:
    """What the answers were. answers: what each version gives."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._last = answers[0]
        self._first_after: list[float] = []
        self._began_s, self._took_s = array("d"), array("d")
        self.requests = self.failed = self.torn = 0

    def answered(self, answer: bytes, began_s: float, took_s: float) -> None:
        self.requests += 1
        self._began_s.append(began_s)
        self._took_s.append(took_s)
        if answer == self._last:
            return
        if answer not in self._answers:
            self.torn += 1
            return
        self._last = answer
        self._first_after.append(took_s)

    def no_answer(self) -> None:
        self.requests += 1
        self.failed += 1

    def report(self) -> dict[str, Any]:
        """first_after_s: of each first prediction on another version than the one before."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "torn": self.torn,
            "first_after_s": self._first_after,
            "usual_s": float(np.median(self._took_s)),
        }

    def write_times(self, target: str) -> None:
        """When each prediction began, on the clock that all processes share, and what it took."""
        np.save(target, np.array([self._began_s, self._took_s]))


def main(job: Job) -> None:
    inputs = prepared(job)
    tally = Tally([Path(path).read_bytes() for path in job.answers])
    tell(pid=pid_for(job))
    if heard() is None:
        return
    with opened(job) as predict:
        predict(inputs)
        tell(is_ready=True)
        while not (has_spoken() and _must_stop(tally)):
            began_s = time.monotonic()
            try:
                outputs = predict(inputs)
            except WeightdError as error:
                tally.no_answer()
                sys.stderr.write(f"{error}\n")
                continue
            took_s = time.monotonic() - began_s
            tally.answered(as_bytes(outputs), began_s, took_s)
    tally.write_times(job.times)
    tell(**tally.report())


def _must_stop(tally: Tally) -> bool:
    message = heard()
    if message is None or "count" not in message:
        return True
    tell(requests=tally.requests)
    return False


if __name__ == "__main__":
    main(Job.of(sys.argv[1]))
