"""The table: which function translates which operator."""

from collections.abc import Mapping
from types import MappingProxyType

from weightd.weights.mindir.ops import (
    activation,
    arithmetic,
    comparison,
    conv,
    creation,
    functions,
    indexing,
    linear,
    norm,
    padding,
    pool,
    recurrent,
    reduction,
    reshaping,
    resize,
    scalar,
    scatter,
    structure,
)
from weightd.weights.mindir.ops.translation import Result, Translation

__all__ = ["OPS", "Result"]

_FAMILIES = (
    activation,
    arithmetic,
    comparison,
    conv,
    creation,
    functions,
    indexing,
    linear,
    norm,
    padding,
    pool,
    recurrent,
    reduction,
    reshaping,
    resize,
    scalar,
    scatter,
    structure,
)

OPS: Mapping[str, Translation] = MappingProxyType(
    {op: translation for family in _FAMILIES for op, translation in family.OPS.items()}
)
