"""Every socket gets mutated frames, while an honest peer is served and its waits are measured.

They are measured three times: with nothing else going on, while the fuzzers rehearse, and while
they send to the daemon. The first two tell what it is to share a machine with them.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import weightd
from weightd.demo.process import Child, wait_for_any
from weightd.errors import RefusedError, WeightdError
from weightd.ipc.lease import Lease
from weightd.stress.findings import Findings
from weightd.stress.stage import Stage

SOCKETS = ("control", "events", "admin", "attach", "keeper")
_BURST = 200
_BATCH = 2000  # frames of one socket between two looks
_BURST_S = 120.0
_CALM_ASKS_S = 3.0
_CALM_S = 0.005
_HONEST_S = 10.0


class Fuzzing:
    """Owns a fuzzer for each socket."""

    def __init__(self, stage: Stage, findings: Findings) -> None:
        self._stage = stage
        self._findings = findings
        self._fuzzers = {name: stage.start("fuzzer", stage.runtime.path, name) for name in SOCKETS}
        self._client = weightd.Client(stage.runtime.path, timeout_s=_HONEST_S)

    def burst(self, random: Random) -> None:
        """A few frames to one socket."""
        name = random.choice(SOCKETS)
        self._fuzzers[name].send(frames=_BURST, seed=random.getrandbits(32))
        self._took(name, self._fuzzers[name].receive(timeout_s=_BURST_S))

    def all_of_them(self, frames: int, seed: int, has_time: Callable[[], bool]) -> None:
        """So many frames, to all sockets at once, while an honest peer asks."""
        random = Random(seed)
        self._ask_for("nobody else", _CALM_ASKS_S)
        self._rehearse(random)
        is_over = threading.Event()
        asking = threading.Thread(target=self._keep_asking, args=(is_over,), name="honest")
        asking.start()
        try:
            self.send(frames, random, has_time)
        finally:
            is_over.set()
            asking.join()

    def send(self, frames: int, random: Random, has_time: Callable[[], bool]) -> None:
        """To each socket its share, a batch to all of them at once. When the time is up no other
        batch is begun; what was not sent then is a violation."""
        left = shares(frames)
        busy: dict[str, Child] = {}
        sent = 0
        while (is_on := has_time() and any(left.values())) or busy:
            for name in [n for n, count in left.items() if is_on and count and n not in busy]:
                count = min(_BATCH, left[name])
                left[name] -= count
                busy[name] = self._fuzzers[name]
                busy[name].send(frames=count, seed=random.getrandbits(32))
            wait_for_any(busy.values(), timeout_s=0.2)
            for name in [n for n, child in busy.items() if wait_for_any([child], timeout_s=0)]:
                sent += self._took(name, busy.pop(name).receive(timeout_s=_BURST_S))
        if sent < frames:
            why = "the time was up" if any(left.values()) else "the daemon stayed away"
            self._findings.violated(f"only {sent:,} of {frames:,} frames were sent: {why}")

    def _rehearse(self, random: Random) -> None:
        for fuzzer in self._fuzzers.values():
            fuzzer.send(rehearse_s=_CALM_ASKS_S, seed=random.getrandbits(32))
        self._ask_for("fuzz of nobody", _CALM_ASKS_S)
        for fuzzer in self._fuzzers.values():
            fuzzer.receive(timeout_s=_BURST_S)

    def _ask_for(self, when: str, seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            self._ask(when)
            time.sleep(_CALM_S)

    def close(self) -> None:
        for fuzzer in self._fuzzers.values():
            fuzzer.close()
        self._client.close()

    def _took(self, name: str, heard: dict[str, int]) -> int:
        """How many were sent."""
        self._findings.did(f"mutated frame to {name}", heard["sent"])
        return heard["sent"]

    def _keep_asking(self, is_over: threading.Event) -> None:
        while not is_over.wait(_CALM_S):
            self._ask("fuzz")

    def _ask(self, when: str) -> None:
        """An honest peer asks for its PID: a new one on the attach plane, an old one on the control
        plane. Being told that its user asks too often is an answer."""
        try:
            with timed(self._findings, f"honest peer, attach plane, {when}"):
                lease = Lease(self._stage.runtime, timeout_s=_HONEST_S)
                try:
                    lease.current_pid()
                finally:
                    lease.close()
            with timed(self._findings, f"honest peer, control plane, {when}"):
                self._client.current_pid()
        except RefusedError as error:
            self._findings.met(error)
        except WeightdError as error:
            self._findings.violated(f"an honest peer met {type(error).__name__}: {error}")


def shares(frames: int) -> dict[str, int]:
    """How many frames each socket is sent: as many as any other, and the first ones the rest."""
    each, rest = divmod(frames, len(SOCKETS))
    return {name: each + (number < rest) for number, name in enumerate(SOCKETS)}


@contextmanager
def timed(findings: Findings, what: str) -> Iterator[None]:
    """Write down how long what is done in here takes, if it succeeds."""
    started_s = time.perf_counter()
    yield
    findings.took(what, time.perf_counter() - started_s)
