"""Checks of arguments, and of attributes when they are set, in MindSpore Lite's words."""

from collections.abc import Callable
from typing import Generic, Self, TypeVar, overload

Kind = TypeVar("Kind")


def check_instance(name: str, value: object, kind: type[Kind]) -> Kind:
    """`value`; TypeError unless it is of this class. A bool passes as an int, numpy's ints do
    not."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {kind.__name__}, but got {type(value)}.")
    return value


def check_each(name: str, value: object, kind: type[Kind]) -> list[Kind]:
    """`value`; TypeError unless it is a list, and each element of this class."""
    if not isinstance(value, list):
        raise TypeError(f"{name} must be list, but got {type(value)}.")
    for index, element in enumerate(value):
        if not isinstance(element, kind):
            raise TypeError(
                f"{name} element must be {kind.__name__}, but got {type(element)} at index {index}."
            )
    return value


class Setting(Generic[Kind]):
    """An attribute that is checked when it is set.

    first: makes the value that each object begins with. check: gives a value back, or raises.
    """

    def __init__(self, first: Callable[[], Kind], check: Callable[[object], Kind]) -> None:
        self._first = first
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, settings: None, owner: type) -> Self: ...

    @overload
    def __get__(self, settings: object, owner: type) -> Kind: ...

    def __get__(self, settings: object, owner: type) -> Self | Kind:
        if settings is None:
            return self
        value: Kind = settings.__dict__.setdefault(self._name, self._first())
        return value

    def __set__(self, settings: object, value: Kind) -> None:
        settings.__dict__[self._name] = self._check(value)
