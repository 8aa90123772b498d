"""Attach and detach storms: many workers at once, some killed, each looking at every byte."""

import threading
from random import Random

import numpy as np

import weightd
from weightd.demo.process import Child, DemoError
from weightd.errors import WeightdError
from weightd.stress.findings import Findings
from weightd.stress.stage import Stage
from weightd.stress.storm_parent import TENSOR, fill

MODEL = "storm"
_NBYTES = 2**20
_STORM_S = 180.0
_KILLED = 0.1
_ROUNDS = 4  # of publishes while one blows


class Storms:
    """A model that anybody of this user may attach, and the parent that forks who does."""

    def __init__(self, stage: Stage, findings: Findings, uid: int, count: int) -> None:
        self._findings = findings
        self._count = count
        self._client = weightd.Client(stage.runtime.path, timeout_s=10)
        self._client.load(MODEL, self._weights(1))
        self._client.allow_rules(MODEL, f"uid:{uid}")
        self._live = 1
        self._parent: Child = stage.start("storm_parent", stage.runtime.path, MODEL)

    def blow(self, random: Random) -> None:
        """One storm, and publishes of the model meanwhile."""
        seed = random.getrandbits(32)
        self._parent.send(count=self._count, killed=_KILLED, seed=seed)
        publishes = threading.Thread(target=self._publish_some, name="storm publishes")
        publishes.start()
        try:
            found = self._parent.receive(timeout_s=_STORM_S)
        except DemoError as error:
            self._findings.violated(f"a storm did not end: {error}")
            return
        finally:
            publishes.join()
        self._findings.did("storm")
        self._findings.did("worker of a storm attached and detached", found["attached"])
        self._findings.did("worker of a storm killed", found["killed"])
        self._findings.took(f"storm of {self._count}", found["seconds"])
        for name, count in found["met"].items():
            for _ in range(count):
                self._findings.met(name)
        for fault in found["wrong"]:
            self._findings.violated(fault)

    def close(self) -> None:
        self._parent.close()
        self._client.close()

    def _publish_some(self) -> None:
        """A version whose number nobody answered for is asked of the daemon: bytes go by number."""
        for _ in range(_ROUNDS):
            try:
                self._live = self._client.status().models[MODEL].live
                self._client.publish(MODEL, self._weights(self._live + 1))
                self._findings.did("publish to a storm")
            except WeightdError as error:
                self._findings.met(error)

    @staticmethod
    def _weights(version: int) -> dict[str, np.ndarray]:
        return {TENSOR: np.full(_NBYTES, fill(version), np.uint8)}
