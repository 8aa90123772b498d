"""What to measure and for how long, checked before anything starts."""

from dataclasses import dataclass, replace
from typing import Self

from weightd.benchmarks.model import Model
from weightd.errors import SettingsError

MEASUREMENTS = ("attach", "memory", "predict", "first-answer", "swap", "publish", "verify", "api")
MIB = 2**20


@dataclass(frozen=True)
class Effort:
    """How many rounds each measurement makes. predict_s: about how long each of its rows may take.
    updates, predictions: a swap's, at least; the second over all workers, of small models.
    sizes: in bytes, of plain tensors.
    """

    attach: int = 400
    crowd: int = 15
    memory: int = 1
    predict: int = 60
    predict_s: float = 4.0
    first_answer: int = 5
    publish: int = 3
    verify: int = 7
    api: int = 5
    updates: int = 4
    predictions: int = 0
    attach_nbytes: tuple[int, ...] = (MIB, 64 * MIB, 1024 * MIB)
    publish_nbytes: tuple[int, ...] = (64 * MIB, 256 * MIB)
    formats: tuple[str, ...] = ("safetensors", "ckpt", "mindir")
    format_nbytes: tuple[int, ...] = (1024 * MIB,)
    verify_nbytes: tuple[int, ...] = (1024 * MIB,)

    def with_rounds(self, rounds: int | None) -> Self:
        """The same with so many rounds of everything, and so many updates."""
        if rounds is None:
            return self
        if rounds < 1:
            raise SettingsError(f"--rounds {rounds} is no number of rounds; give 1 or more")
        return replace(
            self,
            attach=rounds,
            crowd=rounds,
            memory=rounds,
            predict=rounds,
            predict_s=float("inf"),
            first_answer=rounds,
            publish=rounds,
            verify=rounds,
            api=rounds,
            updates=rounds,
        )


NORMAL = Effort()
QUICK = Effort(
    attach=100,
    crowd=3,
    predict=20,
    predict_s=2.0,
    first_answer=3,
    publish=3,
    api=3,
    updates=3,
    attach_nbytes=(MIB,),
    publish_nbytes=(64 * MIB,),
    verify_nbytes=(64 * MIB,),
    formats=(),
)
FULL = replace(NORMAL, memory=3, first_answer=11, publish=5, api=11, updates=50, predictions=10_000)


@dataclass(frozen=True)
class Plan:
    """One run. engine: '' for the daemon's default. workers: ascending."""

    models: tuple[Model, ...]
    measurements: tuple[str, ...] = MEASUREMENTS
    workers: tuple[int, ...] = (1, 2, 4, 8)
    effort: Effort = NORMAL
    engine: str = ""


def workers_of(text: str) -> tuple[int, ...]:
    """The counts in '1,2,4'."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise SettingsError(f"--workers {text!r} is no list of counts such as 1,2,4")
    return tuple(sorted({int(word) for word in words}))


def measurements_of(text: str) -> tuple[str, ...]:
    """The names in 'memory,predict', in the order in which they are measured; all for ''."""
    names = {name.strip() for name in text.split(",")} if text else set(MEASUREMENTS)
    for name in sorted(names - set(MEASUREMENTS)):
        raise SettingsError(f"no measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
    return tuple(name for name in MEASUREMENTS if name in names)
