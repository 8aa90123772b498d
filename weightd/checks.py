"""Checks of arguments, in MindSpore Lite's words."""

from typing import TypeVar

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
