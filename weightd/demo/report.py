"""What the demo found, and what of it is not as promised."""

from dataclasses import asdict, dataclass, field
from typing import Any

from weightd.demo.digits import EARLY_RIGHT, FINAL_RIGHT, IMAGES

SWITCHES = 3  # the update, back, and forth again
_TOLERANCE = 0.0005


@dataclass
class WorkerRow:
    """One worker of part 1 as it stands. by_version: how many answers were early's, final's;
    accuracy_on: each version's accuracy, once all workers had settled on it."""

    name: str
    pid: int
    version: int = 0
    accuracy: float = 0.0
    requests: int = 0
    per_s: float = 0.0
    failed: int = 0
    torn: int = 0
    by_version: tuple[int, int] = (0, 0)
    switches: int = 0
    pause_us: float = 0.0
    longest_pause_us: float = 0.0
    is_settled: bool = False
    accuracy_on: dict[int, float] = field(default_factory=dict)


@dataclass
class LenetReport:
    """Part 1. accuracies: of all workers, before and after the update."""

    workers: list[WorkerRow]
    accuracy_before: float = 0.0
    accuracy_after: float = 0.0
    agrees_with_private_session: bool = False
    seconds: float = 0.0
    images: int = IMAGES

    @property
    def totals(self) -> dict[str, float]:
        rows = self.workers
        return {
            "requests": sum(r.requests for r in rows),
            "failed": sum(r.failed for r in rows),
            "torn": sum(r.torn for r in rows),
            "longest_pause_us": max((r.longest_pause_us for r in rows), default=0.0),
        }

    def problems(self) -> list[str]:
        totals = self.totals
        found = [f"{totals[what]} answers {what}" for what in ("failed", "torn") if totals[what]]
        for when, was, right in (
            ("before", self.accuracy_before, EARLY_RIGHT),
            ("after", self.accuracy_after, FINAL_RIGHT),
        ):
            if abs(was - right / IMAGES) > _TOLERANCE:
                found.append(f"accuracy {when} the update is {was:.2%}, not {right / IMAGES:.2%}")
        if not self.agrees_with_private_session:
            found.append("a private onnxruntime session gives other answers")
        found += [
            f"{r.name} switched {r.switches} times" for r in self.workers if r.switches < SWITCHES
        ]
        return found


@dataclass
class Side:
    """Part 2, one way to run the model: bytes and seconds of each worker. first_s: from opening the
    model to the first answer; again_s: an answer later on,
    alone on the machine."""

    pss: list[int] = field(default_factory=list)
    private_dirty: list[int] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)


@dataclass
class MemoryReport:
    """Part 2. skipped: why it was, or ''. load_s: the one load into the daemon."""

    skipped: str = ""
    model_nbytes: int = 0
    private: Side = field(default_factory=Side)
    weightd: Side = field(default_factory=Side)
    load_s: float = 0.0
    held_nbytes: int = 0
    outputs_agree: bool = False
    seconds: float = 0.0

    def problems(self) -> list[str]:
        if self.skipped or self.outputs_agree:
            return []
        return ["weightd and private sessions give different answers on the large model"]


@dataclass
class Report:
    """All of it."""

    lenet: LenetReport
    memory: MemoryReport | None
    seconds: float

    def problems(self) -> list[str]:
        return self.lenet.problems() + (self.memory.problems() if self.memory else [])

    def document(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        plain = asdict(self)
        plain["lenet"] |= self.lenet.totals
        return plain | {"problems": self.problems()}
