"""A PID is used again: the process that has it now is not the one that was allowed."""

from random import Random

from weightd.errors import WeightdError
from weightd.stress.answers import MODEL
from weightd.stress.findings import Findings
from weightd.stress.stage import Stage

_ANSWER_S = 60.0


class Reuse:
    """Has a light child fork the processes. Where the kernel does not let PIDs be chosen that is
    said, once."""

    def __init__(self, stage: Stage, findings: Findings) -> None:
        self._findings = findings
        self._client = stage.client()
        self._recycler = stage.start("recycler", stage.runtime.path, MODEL)

    def recycle(self, _: Random) -> None:
        """Allow a process, end it, have another one get its number, and see that one refused."""
        self._recycler.send(begin=True)
        pid = self._recycler.receive(timeout_s=_ANSWER_S)["pid"]
        try:
            handle = self._client.allow(MODEL, pid)
        except WeightdError as error:
            self._findings.met(error)
            handle = 1
        self._recycler.send(handle=handle)
        outcome = self._recycler.receive(timeout_s=_ANSWER_S)
        if "cannot" in outcome:
            self._findings.note(f"{outcome['cannot']}: none was used again")
            return
        self._findings.did("PID used again")
        if outcome["met"] is None:
            self._findings.violated("a process that got an allowed one's PID was let in")
        else:
            self._findings.met(outcome["met"])

    def close(self) -> None:
        self._recycler.close()
        self._client.close()
