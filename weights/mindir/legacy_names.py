"""Names that MindSpore has changed since 1.1: of operators, and of their attributes.

Only what means the same is here; what does not is refused as an operator that is not translated.
"""

from collections.abc import Mapping

from weightd.weights.mindir.proto import Constant

# Operators that convert their operands, as all that are translated do.
_PREFIXES = ("S-Prim-", "S_Prim_")

_OPERATORS = {
    "ControlDepend": "Depend",  # orders two nodes, and nobody uses what it gives
    "FastGelu": "FastGeLU",
    "ScalarToArray": "ScalarToTensor",
    "list_getitem": "ListGetItem",
    "partial": "Partial",
    "scalar_to_array": "ScalarToTensor",
    "stop_gradient": "StopGradient",
    "switch": "Switch",
    "tuple_getitem": "TupleGetItem",
    "tuple_len": "sequence_len",
}

# The weights of MindSpore 1's LSTM lie in another order, and not in all its versions in the same.
_CHANGED = frozenset({"LSTM"})

_FORMAT, _DATA_FORMAT = "format", "data_format"
_ATTRIBUTES = {
    "BiasAdd": {_FORMAT: _DATA_FORMAT},
    "Roll": {"shift": "shifts", "axis": "dims"},
}


def operator_of(name: str) -> str:
    """Today's name of an operator."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return _OPERATORS.get(name, name)


def legacy_operator_of(name: str) -> str:
    """The same, of an operator that MindSpore 1.1 to 1.6 wrote. One that meant something else then
    gets a name that nothing else has."""
    today = operator_of(name)
    return f"{today} of MindSpore 1" if today in _CHANGED else today


def attributes_of(operator: str, attributes: Mapping[str, Constant]) -> dict[str, Constant]:
    """An operator's attributes by today's names. One that is there by both keeps today's."""
    names = _ATTRIBUTES.get(operator, {_DATA_FORMAT: _FORMAT})
    renamed = {names[name]: value for name, value in attributes.items() if name in names}
    kept = {name: value for name, value in attributes.items() if name not in names}
    return renamed | kept
