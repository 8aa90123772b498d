"""What a client of the daemon can know of a model's versions, from what was answered to it alone.

Pure. A request that got no answer (its client or the daemon was killed) was carried out or not:
nothing in between. Whatever the daemon shows must be explained by that, or it lost a version or
invented one.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Publish:
    """Give the model these weights; they are known by their index."""

    weights: int


@dataclass(frozen=True)
class Rollback:
    """Make this version live again; None: the one before."""

    version: int | None


Request = Publish | Rollback


@dataclass(frozen=True)
class Shown:
    """What the daemon shows of the model."""

    live: int
    numbers: frozenset[int]


@dataclass(frozen=True)
class Versions:
    """One state of the model. order: numbers in the order in which they were last live; weights:
    which ones each version that ever was has."""

    keep: int
    next_number: int = 1
    order: tuple[int, ...] = ()
    weights: dict[int, int] = field(default_factory=dict)

    @property
    def live(self) -> int:
        return self.order[-1]

    @property
    def kept(self) -> tuple[int, ...]:
        """Those that the daemon holds itself."""
        return self.order[-self.keep :]

    def after(self, request: Request) -> "Versions":
        """The state once this request was carried out; ValueError when it cannot be."""
        if isinstance(request, Publish):
            number = self.next_number
            return replace(
                self,
                next_number=number + 1,
                order=(*self.order, number),
                weights=self.weights | {number: request.weights},
            )
        target = request.version
        if target is None:
            target = self.order[-2] if len(self.kept) > 1 else 0
        if target not in self.kept or target == self.live:
            raise ValueError(f"version {target} cannot be live again: {self.kept} are held")
        return replace(self, order=(*(n for n in self.order if n != target), target))

    def fault_of(self, shown: Shown) -> str:
        """What is not as it should be in what the daemon shows; '' if all of it is. Versions that
        only workers hold may be there or not."""
        if lost := [n for n in self.kept if n not in shown.numbers]:
            return f"lost: version {lost[0]} is not there"
        if invented := sorted(shown.numbers - self.weights.keys()):
            return f"invented: nobody published version {invented[0]}"
        if shown.live != self.live:
            return f"lost: version {self.live} is live by what was answered, {shown.live} is shown"
        return ""


class Ledger:
    """The one state that all answers so far leave. Not for two threads at once."""

    def __init__(self, keep: int) -> None:
        self.now = Versions(keep)

    def answered(self, request: Request, version: int) -> str:
        """The request was carried out, and this version is live now; returns what is wrong with
        that, or ''."""
        self.now = self.now.after(request)
        if version == self.now.live:
            return ""
        return f"answered with version {version} where {self.now.live} was to be"

    def unanswered(self, request: Request, shown: Shown) -> str:
        """The request got no answer, and the daemon shows this afterwards; returns what is wrong
        with it, or ''."""
        before, after = self.now, self.now.after(request)
        if not after.fault_of(shown):
            self.now = after
            return ""
        return before.fault_of(shown)

    def checked(self, shown: Shown) -> str:
        """Nothing is under way; returns what is wrong with what the daemon shows, or ''."""
        return self.now.fault_of(shown)


def fault_of_answers(
    answers: dict[tuple[tuple[int, ...], int], int], weights: dict[int, int]
) -> list[str]:
    """What is wrong with predictions. answers: (the versions that a worker may have run on
    meanwhile, the weights that the answer is of) -> how many; weights: of each version."""
    faults = []
    for (numbers, index), count in sorted(answers.items()):
        if unknown := [n for n in numbers if n not in weights]:
            faults.append(f"invented: {count} predictions on version {unknown[0]}")
        elif index not in _known(numbers, weights):
            shown = " or ".join(map(str, numbers))
            faults.append(f"{count} answers on version {shown} are of weights {index}")
    return faults


def _known(numbers: Collection[int], weights: dict[int, int]) -> set[int]:
    return {weights[number] for number in numbers}
