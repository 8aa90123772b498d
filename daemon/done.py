"""Requests that were carried out, by the number that each came with: a client whose daemon died
before it could answer asks the next one, which must not do it again."""

from collections.abc import Iterable

_REMEMBERED = 256  # a client asks for seconds, and few of them publish or roll back

Entry = tuple[int, str, int]


class Done:
    """The newest of them, as once, model and version: whatever became of the version since."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._made = {once: (model, number) for once, model, number in entries}

    def note(self, once: int, model: str, number: int) -> None:
        """This request has made that version live. once: 0 for who never asks again."""
        if once:
            self._made[once] = (model, number)
            for oldest in list(self._made)[:-_REMEMBERED]:
                del self._made[oldest]

    def version(self, once: int, model: str) -> int | None:
        """What the request has made live; None if it was not carried out, that anybody knew."""
        name, number = self._made.get(once, ("", 0))
        return number if once and name == model else None

    def entries(self) -> tuple[Entry, ...]:
        """The oldest first."""
        return tuple((once, model, number) for once, (model, number) in self._made.items())
