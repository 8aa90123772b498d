"""What a run is to be, checked before anything starts."""

import secrets
from dataclasses import dataclass
from typing import Self

from weightd.errors import SettingsError

SCENARIOS = ("storm", "publish", "kill", "stop", "want", "hostile", "fuzz", "reuse")


@dataclass(frozen=True)
class Plan:
    """A run ends after `seconds`, or as soon as the daemon was killed `kills` times, or `frames`
    mutated frames were sent; None for what does not end it. Frames that the seconds do not suffice
    for are a violation. storm: workers in each."""

    seconds: float | None
    seed: int
    kills: int | None = None
    frames: int | None = None
    workers: int = 8
    storm: int = 1000
    pause_s: float = 0.005
    scenarios: frozenset[str] = frozenset(SCENARIOS)

    @classmethod
    def of(  # noqa: PLR0913 - each is an option
        cls,
        *,
        seconds: float | None = None,
        seed: int | None = None,
        kills: int | None = None,
        frames: int | None = None,
        only: str = "",
        workers: int = 8,
        storm: int = 1000,
    ) -> Self:
        """SettingsError when it cannot be. With frames alone nothing kills the daemon: its memory
        is looked at."""
        if seconds is None and kills is None and frames is None:
            seconds = 60.0
        for option, value in (
            ("seconds", seconds),
            ("kills", kills),
            ("frames", frames),
            ("storm", storm),
        ):
            if value is not None and not value > 0:  # NaN, too
                raise SettingsError(f"--{option} {value} is nothing to do; give more than 0")
        if workers < 1:
            raise SettingsError(f"--workers {workers}: give 1 or more")
        chosen = _chosen(only)
        if frames is not None:
            chosen = chosen & {"fuzz"} if only else frozenset({"fuzz"})
        if kills is not None:
            chosen |= {"kill"}
        seed = secrets.randbelow(2**32) if seed is None else seed
        return cls(seconds, seed, kills, frames, workers, storm, scenarios=chosen)


def _chosen(only: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in only.split(",")) if only else frozenset(SCENARIOS)
    for name in sorted(names - set(SCENARIOS)):
        raise SettingsError(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    return names
