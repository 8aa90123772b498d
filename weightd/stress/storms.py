"""Attach and detach storms: many workers at once, some killed, each looking at every byte."""

import threading
from random import Random

import numpy as np

import weightd
from weightd.demo.process import Child, DemoError, wait_for_any
from weightd.errors import WeightdError
from weightd.stress.findings import Findings
from weightd.stress.stage import Stage, status_of
from weightd.stress.storm_parent import TENSOR, fill

MODEL = "storm"
_NBYTES = 2**20
_STORM_S = 180.0
_KILLED = 0.1
_PUBLISH_S = 0.5  # so often while one blows


class Storms:
    """A model that anybody of this user may attach, and the parent that forks who does."""

    def __init__(self, stage: Stage, findings: Findings, uid: int, count: int) -> None:
        self._findings = findings
        self._count = count
        self._client = weightd.Client(stage.runtime.path, timeout_s=10)
        self._client.load(MODEL, self._weights(1))
        self._client.allow_rules(MODEL, f"uid:{uid}")
        self._blowing: threading.Thread | None = None
        self._parent: Child = stage.start("storm_parent", stage.runtime.path, MODEL)

    def blow(self, random: Random) -> None:
        """Begin one, unless one blows already; it goes on beside whatever comes next."""
        if self._blowing is not None and self._blowing.is_alive():
            return
        seed = random.getrandbits(32)
        self._blowing = threading.Thread(target=self._blow, args=(seed,), name="storm")
        self._blowing.start()

    def close(self) -> None:
        """After the one that blows."""
        if self._blowing is not None:
            self._blowing.join()
        self._parent.close()
        self._client.close()

    def _blow(self, seed: int) -> None:
        try:
            self._parent.send(count=self._count, killed=_KILLED, seed=seed)
            while not wait_for_any([self._parent], timeout_s=_PUBLISH_S):
                self._publish()
            found = self._parent.receive(timeout_s=_STORM_S)
        except (DemoError, WeightdError) as error:
            self._findings.violated(f"a storm did not end well: {type(error).__name__}: {error}")
            return
        self._findings.did("storm")
        self._findings.did("worker of a storm attached and detached", found["attached"])
        self._findings.did("worker of a storm killed", found["killed"])
        self._findings.took(f"storm of {self._count}", found["seconds"])
        for name, count in found["met"].items():
            for _ in range(count):
                self._findings.met(name)
        for fault in found["wrong"]:
            self._findings.violated(fault)

    def _publish(self) -> None:
        """The next version. Bytes go by number, so that what was asked for before must be over."""
        status = status_of(self._client)
        if any(staging.model == MODEL for staging in status.staging):
            return
        try:
            self._client.publish(MODEL, self._weights(status.models[MODEL].live + 1))
            self._findings.did("publish to a storm")
        except WeightdError as error:
            self._findings.met(error)

    @staticmethod
    def _weights(version: int) -> dict[str, np.ndarray]:
        return {TENSOR: np.full(_NBYTES, fill(version), np.uint8)}
