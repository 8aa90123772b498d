"""What a run does and in which order: random, and the same for the same seed.

Real time is not replayed: which step meets the daemon at which of its own steps differs from run
to run. What is replayed is which steps there are, their order, the pauses between them and each
step's own random numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Step:
    """After a pause, an action, which draws what it needs from a seed of its own."""

    pause_s: float
    action: str
    seed: int


def steps(seed: int, weights: Mapping[str, float], longest_pause_s: float) -> Iterator[Step]:
    """Without end. weights: how often each action comes, in proportion; with none there are
    pauses only."""
    random = Random(seed)
    actions = sorted(weights) or [""]
    shares = [weights.get(action, 1) for action in actions]
    while True:
        pause_s = random.uniform(0, longest_pause_s)
        (action,) = random.choices(actions, shares)
        yield Step(pause_s, action, random.getrandbits(32))
