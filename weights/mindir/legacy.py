"""The attributes of MindSpore 1.x files: what an attribute is stands in a text, `ref_attr_name`.

    scalar:value0                   a number or a text, in the field of its type
    scalar:Tuple[value1,value2,],   a tuple (List: a list), perhaps nested; its parts lie in the
                                    repeated field of their type, in order
    tensor:value0                   a tensor
    type:value0                     a dtype: that of a tensor without bytes
    Monad:UMonad, none              no data
    shape:shape1,                   without a name of its own: the type of a node's value, or
    shape:Tuple[shape1,shape2,],    the types of several

Such a file has no table of primitives either: a node has its operator's name and attributes itself.
Later versions give an attribute a type for all of this. (mindir_exporter.cc of MindSpore 1.5.)
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from weightd.errors import UnsupportedModelError
from weightd.weights.mindir import proto
from weightd.weights.mindir.proto import Constant, Monad, TensorType, Type

_TOKEN = re.compile(r"(Tuple|List)\[|\],?|[A-Za-z]+\d*,?")
_MAX_DEPTH = 32
_NUMBER = TensorType("uint64", (1,))  # how a number among the types is declared, whatever its dtype


def is_legacy(attribute: Any) -> bool:
    return bool(attribute.ref_attr_name)


def declares_type(attribute: Any) -> bool:
    return bool(attribute.ref_attr_name.startswith(b"shape:"))


def constant_of(attribute: Any, of: str) -> Constant:
    """The value of an attribute; UnsupportedModelError for a form that is not known."""
    text = proto.text_of(attribute.ref_attr_name, of)
    kind, _, rest = text.partition(":")
    match kind, rest:
        case "none", _:
            return None
        case "Monad", _:
            return Monad()
        case (("tensor" | "type"), _) if len(attribute.tensors) == 1:
            return proto.array_of(attribute.tensors[0], of)
        case "scalar", "value0":
            return proto.constant_of(attribute, of)
        case "scalar", _:
            found: Constant = _nested(rest, _parts(attribute, of), of)
            return found
        case _:
            raise _unknown(text, of)


def type_of(attribute: Any, of: str) -> Type:
    """The type that a node declares."""
    rest = proto.text_of(attribute.ref_attr_name, of).partition(":")[2]
    types: list[Type] = [proto.tensor_types([tensor], of) for tensor in attribute.tensors]
    parts = [None if type_ == _NUMBER else type_ for type_ in types]
    found: Type = _nested(rest, parts, of)
    return found


def _parts(attribute: Any, of: str) -> list[Any]:
    """The parts of a tuple. They are all of one type, so that one of the fields has them."""
    is_bool = attribute.type == 9
    fields: Sequence[list[Any]] = (
        [bool(number) if is_bool else int(number) for number in attribute.ints],
        [float(number) for number in (*attribute.floats, *attribute.doubles)],
        [proto.text_of(raw, of) for raw in attribute.strings],
        [proto.array_of(tensor, of) for tensor in attribute.tensors],
    )
    filled = [field for field in fields if field]
    if len(filled) > 1:
        raise UnsupportedModelError(f"{of} is a tuple of different types, of MindSpore 1.x")
    return filled[0] if filled else []


def _nested(text: str, parts: Sequence[Any], of: str) -> Any:
    """The parts in tuples as the text says."""
    tokens = (match[0] for match in _TOKEN.finditer(text))
    left = iter(parts)
    found = _items(tokens, left, 0, of)
    if next(left, None) is not None or (parts and not found):
        raise _unknown(text, of)
    return found[0] if len(found) == 1 else found


def _items(tokens: Iterator[str], parts: Iterator[Any], depth: int, of: str) -> tuple[Any, ...]:
    if depth > _MAX_DEPTH:
        raise UnsupportedModelError(f"{of} is nested more than {_MAX_DEPTH} deep")
    found: list[Any] = []
    for token in tokens:
        if token.startswith("]"):
            break
        if token.endswith("["):
            found.append(_items(tokens, parts, depth + 1, of))
        elif token.startswith(("value", "shape")):
            part = next(parts, _unknown)
            if part is _unknown:
                raise _unknown(token, of)
            found.append(part)
        else:
            found.append(None)  # a monad, a text or a graph among the types
    return tuple(found)


def _unknown(text: str, of: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{of} is written as {text[:200]!r}, which is not a form of MindSpore 1.x that is known; "
        "export the network again with MindSpore 2"
    )
