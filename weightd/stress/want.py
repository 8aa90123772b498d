"""The daemon under want: no memory, no descriptors. What it refuses, it refuses by name."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from random import Random

import numpy as np

import weightd
from weightd.errors import BrokenPeerError, InsufficientMemoryError, RefusedError, WeightdError
from weightd.ipc.lease import Lease
from weightd.stress.findings import Findings
from weightd.stress.stage import BUDGET_NBYTES, Stage

# Descriptors, beyond those in use. The daemon keeps some back for the control plane, a quarter of
# all at most: libzmq aborts it when it finds none for an owner who connects meanwhile.
_KEPT_BACK, _SPARE = 32, 3
_ATTACHES = 48  # at once: more than there is room for
_ASK_S = 10.0
_BACK_S = 20.0
_UNTAKEN = "the daemon's descriptors were never exhausted: only root may count and limit them"


class Want:
    """Takes from the daemon what it needs, and gives it back."""

    def __init__(self, stage: Stage, findings: Findings) -> None:
        self._stage = stage
        self._findings = findings
        self._client = weightd.Client(stage.runtime.path, timeout_s=_ASK_S)

    def of_memory(self, _: Random) -> None:
        """A load over the budget is refused, and says so."""
        self._findings.did("load over the budget")
        error = self._refusal(self._load_too_much)
        if isinstance(error, RefusedError) and not isinstance(error, InsufficientMemoryError):
            self._findings.violated(f"over the budget: {type(error).__name__}: {error}")

    def of_descriptors(self, random: Random) -> None:
        """With a few descriptors left workers come, and a file is offered; and when there are more
        again all goes on. Left out, and said, where we may not take them from it."""
        pid = self._stage.daemon_pid()
        spare = _KEPT_BACK + random.randint(0, _SPARE)
        try:
            with few_descriptors(pid, spare), ExitStack() as visitors:
                self._findings.did("descriptors exhausted")
                self._come(visitors)
        except (FileNotFoundError, ProcessLookupError):  # killed meanwhile
            return
        except PermissionError:
            self._findings.note(_UNTAKEN)
            return
        self._wait_until_served()

    def close(self) -> None:
        self._client.close()

    def _come(self, visitors: ExitStack) -> None:
        """More workers than there is room for, who stay, and a file."""
        for _number in range(_ATTACHES):
            self._refusal(lambda: visitors.enter_context(closing(self._visit())))
        self._refusal(lambda: self._client.load("little", _little(), dry_run=True))

    def _wait_until_served(self) -> None:
        deadline_s = time.monotonic() + _BACK_S
        while self._refusal(lambda: self._visit().close()) is not None:
            if time.monotonic() > deadline_s:
                self._findings.violated("the daemon has descriptors again and serves nobody")
                return
            time.sleep(0.02)

    def _load_too_much(self) -> None:
        self._client.load("large", {"w": np.zeros(BUDGET_NBYTES + 4096, np.uint8)})
        self._findings.violated("a load over the budget was not refused")
        self._client.unload("large")

    def _visit(self) -> Lease:
        """A worker who asks who he is, and stays; the caller closes it."""
        lease = Lease(self._stage.runtime, timeout_s=_ASK_S)
        try:
            lease.current_pid()
        except BaseException:
            lease.close()
            raise
        return lease

    def _refusal(self, act: Callable[[], object]) -> WeightdError | None:
        """How the daemon refused it, None if it did not; an error of another kind is a bug."""
        try:
            act()
        except (RefusedError, BrokenPeerError) as error:
            self._findings.met(error)
            return error
        except (OSError, RuntimeError, ValueError) as error:
            self._findings.violated(f"refused without a name: {type(error).__name__}: {error}")
        return None


@contextmanager
def few_descriptors(pid: int, spare: int) -> Iterator[None]:
    """The process may open `spare` more descriptors than it has now while this lasts."""
    used = len(os.listdir(f"/proc/{pid}/fd"))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def _little() -> dict[str, np.ndarray]:
    return {"w": np.zeros(16, np.uint8)}
