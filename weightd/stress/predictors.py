"""The workers of a run: each predicts all the time, and what it saw is kept to be checked."""

import os
import signal
import time
from collections import Counter
from random import Random
from typing import Any

from weightd.demo.process import Child, DemoError
from weightd.errors import WeightdError
from weightd.stress.answers import MODEL, Known
from weightd.stress.findings import Findings
from weightd.stress.stage import Stage, status_of

_START_S = 90.0
_STOP_S = 30.0
_RETURN_S = 20.0  # by when every worker is on the live version again


class Predictors:
    """Used by one thread. Workers that are killed are replaced."""

    def __init__(self, stage: Stage, known: Known, findings: Findings, pause_s: float) -> None:
        self._stage = stage
        self._arguments = (stage.runtime.path, MODEL, known.answers, pause_s)
        self._findings = findings
        self._children: list[Child] = []
        self._client = stage.client()
        self.answers: Counter[tuple[tuple[int, ...], int]] = Counter()

    def start(self, count: int) -> None:
        """Start so many more, and return when all of them predict."""
        children = [self._stage.start("predictor", *self._arguments) for _ in range(count)]
        for child in children:
            child.receive(timeout_s=_START_S)
            child.send(handle=self._allow(child.pid))
        for child in children:
            self._children.append(child)
            while "attached" not in (heard := child.receive(timeout_s=_START_S)):
                self._heed(heard)

    def _allow(self, pid: int) -> int:
        """Allow it by its PID, for as long as it takes a daemon to be there."""
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                return self._client.allow(MODEL, pid)
            except WeightdError as error:
                self._findings.met(error)
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.02)

    def read(self) -> None:
        """Take in what they saw by now. One that ended by itself is a violation."""
        for child in list(self._children):
            try:
                for heard in child.received():
                    self._heed(heard)
            except DemoError as error:
                self._children.remove(child)
                self._findings.violated(f"a worker ended by itself: {error}")

    def kill_one(self, random: Random) -> None:
        """SIGKILL a worker in the middle of what it does; another takes its place."""
        child = random.choice(self._children)
        self._children.remove(child)
        child.close()
        self._findings.did("kill worker")
        self.start(1)

    def stop_one(self, random: Random) -> None:
        """SIGSTOP one for a while."""
        pid = random.choice(self._children).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(random.uniform(0.01, 0.5))
        finally:
            os.kill(pid, signal.SIGCONT)
        self._findings.did("stop worker")

    def check_all_returned(self) -> None:
        """Within a time, every worker has its lease and runs on the live version."""
        deadline_s = time.monotonic() + _RETURN_S
        while missing := self._missing():
            if time.monotonic() > deadline_s:
                self._findings.violated(f"workers that did not come back: {missing}")
                return
            time.sleep(0.1)
            self.read()

    def _missing(self) -> list[str]:
        status = status_of(self._client)
        leases = {worker.pid: worker for worker in status.workers if worker.model == MODEL}
        if MODEL not in status.models:
            return [f"{MODEL} is not there any more"]
        live = status.models[MODEL].live
        return [
            f"{child.name}: {leases[child.pid].lag or 'switching'}"
            if child.pid in leases
            else f"{child.name}: no lease"
            for child in self._children
            if child.pid not in leases or leases[child.pid].version != live
        ]

    def close(self) -> None:
        """Stop them all, and take in the last that they saw."""
        try:
            for child in self._children:
                child.send(stop=True)
            for child in self._children:
                while "has_stopped" not in (heard := child.receive(timeout_s=_STOP_S)):
                    self._heed(heard)
                self._heed(heard)
        except DemoError as error:
            self._findings.violated(f"a worker did not stop: {error}")
        for child in self._children:
            child.close()
        self._children.clear()
        self._client.close()

    def _heed(self, heard: dict[str, Any]) -> None:
        for versions, index, count in heard.get("seen", []):
            self.answers[tuple(versions), index] += count
            self._findings.predicted(checked=count)
        failed = heard.get("failed", {})
        self._findings.predicted(failed=sum(failed.values()), torn=heard.get("torn", 0))
        for name in failed:
            self._findings.violated(f"a prediction failed: {name}")
        if heard.get("torn"):
            self._findings.violated("torn: an answer that no set of weights gives")
