"""Publishes and rollbacks at full rate, and whether the daemon did what it answered.

A client process asks, and may be killed at any moment; what was answered is written down here.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from weightd.demo.process import Child, DemoError
from weightd.errors import RefusedError, from_wire
from weightd.stress.answers import MODEL, Known
from weightd.stress.findings import Findings
from weightd.stress.ledger import Ledger, Publish, Request, Rollback, Shown
from weightd.stress.stage import KEEP, Stage, status_of

_ANSWER_S = 90.0
_SETTLE_S = 60.0
_CALM_S = 0.002


class Publishing:
    """A thread that asks, one request after the other. `ledger` is what was answered."""

    def __init__(self, stage: Stage, known: Known, findings: Findings, seed: int) -> None:
        self._stage = stage
        self._known = known
        self._findings = findings
        self._random = Random(seed)
        self.ledger = Ledger(KEEP)
        self._client = stage.client()
        self._turn = threading.Lock()  # held for one request with all that follows from it
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publishing")
        self._requester: Child | None = None
        self.requests = 0  # for publishes: how many stagers may have been started for us

    def load(self) -> None:
        self._client.load(MODEL, self._known.model)
        self.requests += 1
        self._note(self.ledger.answered(Publish(0), 1))

    def start(self) -> None:
        self._requester = self._stage.start("requester", self._stage.runtime.path, MODEL)
        self._thread.start()

    def kill_client(self) -> None:
        """SIGKILL the process that asks, whatever it waits for."""
        requester = self._requester
        if requester is not None:
            requester.kill()
            self._findings.did("kill client")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No request is under way while this lasts."""
        with self._turn:
            yield

    def check(self) -> None:
        """What the daemon shows now is explained by what it answered. Only while paused."""
        self._note(self.ledger.checked(self._shown()))

    def close(self) -> None:
        self._is_over.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()
        if self._requester is not None:
            self._requester.close()
        self._client.close()

    # --- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_over.wait(_CALM_S):
                with self._turn:
                    self._ask(self._next())
        except Exception as error:  # noqa: BLE001 - the run ends with a verdict, whatever it was
            self._findings.violated(f"publishing ended: {type(error).__name__}: {error}")

    def _next(self) -> Request:
        now = self.ledger.now
        if self._random.random() < 0.6 or len(now.kept) < 2:
            return Publish(self._random.randrange(len(self._known.weights)))
        others = [number for number in now.kept if number != now.live]
        return Rollback(self._random.choice([None, *others]))

    def _ask(self, request: Request) -> None:
        kind = "publish" if isinstance(request, Publish) else "rollback"
        self.requests += kind == "publish"
        started_s = time.monotonic()
        try:
            answer = self._exchange(request)
        except DemoError:  # killed, we hope: what came of it shows
            self._findings.did(f"{kind} of a killed client")
            self._requester = self._stage.start("requester", self._stage.runtime.path, MODEL)
            self._resolve(request)
            return
        if "version" in answer:
            self._findings.did(kind)
            self._findings.took(kind, time.monotonic() - started_s)
            self._note(self.ledger.answered(request, answer["version"]))
            return
        error = from_wire(*answer["error"])
        self._findings.met(error)
        if isinstance(error, RefusedError):
            self._note(self.ledger.checked(self._shown()))
        else:
            self._findings.did(f"{kind} without an answer")
            self._resolve(request)

    def _exchange(self, request: Request) -> dict[str, Any]:
        requester = self._requester
        assert requester is not None
        if isinstance(request, Publish):
            requester.send(publish=str(self._known.weights[request.weights]))
        else:
            requester.send(rollback=request.version)
        return requester.receive(timeout_s=_ANSWER_S)

    def _resolve(self, request: Request) -> None:
        self._note(self.ledger.unanswered(request, self._shown()))

    def _shown(self) -> Shown:
        """What there is once nothing is staged any more."""
        deadline_s = time.monotonic() + _SETTLE_S
        while True:
            status = status_of(self._client)
            if all(staging.model != MODEL for staging in status.staging):
                model = status.models.get(MODEL)
                if model is None:
                    return Shown(0, frozenset())
                return Shown(model.live, frozenset(v.number for v in model.versions))
            if time.monotonic() > deadline_s:
                self._findings.violated(f"a staging does not end: {status.staging}")
            time.sleep(0.01)

    def _note(self, fault: str) -> None:
        if fault:
            self._findings.violated(fault)
