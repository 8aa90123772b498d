"""The attributes of MindSpore 1.1 to 1.6: what an attribute is stands in a text, `ref_attr_name`.

"scalar:value0"               a number or text, in the field of its type
"scalar:Tuple[value1,],"      a tuple (or List[), nested as it says; valueN is number N of the one
                              repeated field that is filled
"tensor:value0"               a tensor
"type:value0", "type:tensor0" a dtype, or that of tensors
"Monad:UMonad", "none"        MindSpore's token for order, Python's None
"shape:Tuple[shape1,],"       without a name of its own: the types of a node's values; shapeN is the
                              tensor of that name, any other word something without a type

What changed when, as the schemas and exporters of these versions have it:

to 1.0  ONNX's messages around MindSpore's operators: another format, which onnx_graph.py refuses
1.1     messages of its own, IR 0.1.0; one graph, parameters apart from inputs. What has no
        dimensions is declared as [1] where it is an input
1.2     monads, Load, UpdateState. A number that is computed is declared as uint64[1], a bool by the
        attribute's `type` alone
1.5     functions: graphs that are called
1.6     little_endian, ref_key, external_data, attr_info (types of inputs that are tuples)
1.7     IR 0.1.1: the table of primitives, and `type` says what an attribute is; since then nothing
        here is needed. A number that is computed is declared as a tensor of [1]

The numbers of fields, dtypes and attribute types have never changed, only grown.
"""

import re
from collections.abc import Callable
from typing import Any

from weightd.errors import BadFileError
from weightd.weights.mindir.proto import (
    BOOL,
    Constant,
    Monad,
    Opaque,
    TensorType,
    Type,
    array_of,
    scalar_of,
    tensor_types,
    text_of,
)

_UINT64 = 13
_MAX_DEPTH = 16

_TOKEN = re.compile(r"(?P<begin>(?:Tuple|List)\[)|(?P<word>[^\[\],]+),|(?P<end>\],?)")

# What a text lists: words, and in brackets more of them.
_Tree = str | tuple["_Tree", ...]


def is_legacy(attribute: Any) -> bool:
    return bool(attribute.ref_attr_name)


def declares_type(attribute: Any) -> bool:
    return bool(attribute.ref_attr_name.startswith(b"shape:"))


def constant_of(attribute: Any, of: str) -> Constant:
    """The value of an attribute. Of a form that is not known: Opaque, which is refused by whoever
    uses it."""
    form = text_of(attribute.ref_attr_name, of)
    kind, _, body = form.partition(":")
    match kind:
        case "scalar" if body == "value0":
            return scalar_of(attribute, of)
        case "scalar" if body.startswith(("Tuple[", "List[")):
            return _sequence_of(attribute, body, of)
        case "tensor" | "type":
            if len(attribute.tensors) != 1:
                raise BadFileError(f"{of} is {form!r} with {len(attribute.tensors)} tensors")
            return array_of(attribute.tensors[0], of)
        case "Monad":
            return Monad()
        case "none":
            return None
        case _:
            return Opaque(form[:80])


def type_of(attribute: Any, of: str) -> Type:
    """The types that an attribute declares. A bool has no word in the list, so that nothing is said
    of a tuple with one."""
    trees = _trees(text_of(attribute.ref_attr_name, of).removeprefix("shape:"), of)
    if attribute.type == BOOL:
        return None if trees else TensorType("bool", ())
    tensors = {text_of(tensor.name, of): tensor for tensor in attribute.tensors}

    def named(word: str) -> Type:
        if not word.startswith("shape"):
            return None
        if word not in tensors:
            raise BadFileError(f"{of} names {word!r}, which it does not have")
        return _tensor_type(tensors[word], of)

    types = _replaced(trees, named)
    return types[0] if len(types) == 1 else types or None


def _tensor_type(tensor: Any, of: str) -> Type:
    # A number, whatever its dtype. A real uint64 tensor of [1] is then refused when types are held
    # against what was translated.
    if tensor.data_type == _UINT64 and list(tensor.dims) == [1]:
        return TensorType("int64", ())
    return tensor_types([tensor], of)


def _sequence_of(attribute: Any, body: str, of: str) -> Constant:
    """A tuple. Of one with several kinds of parts the file does not say their order."""
    trees = _trees(body, of)
    if len(trees) != 1:
        raise BadFileError(f"{of} has {len(trees)} tuples where one belongs")
    parts = _parts_of(attribute, of)
    if parts is None:
        return Opaque("a tuple of numbers and other things")
    left = iter(enumerate(parts, 1))

    def named(word: str) -> Constant:
        number, part = next(left, (0, None))
        if word != f"value{number}":
            raise BadFileError(f"{of} names {word!r} and has {len(parts)} parts")
        return part

    (value,) = _replaced(trees, named)
    if next(left, None) is not None:
        raise BadFileError(f"{of} has {len(parts)} parts, more than its tuple names")
    found: Constant = value
    return found


def _parts_of(attribute: Any, of: str) -> list[Constant] | None:
    """The repeated field that is filled. None: there are several."""
    ints = list(attribute.ints)
    if attribute.type == BOOL and set(ints) <= {0, 1}:  # `type` is that of the last part
        ints = [bool(number) for number in ints]
    fields: list[list[Constant]] = [
        ints,
        [*attribute.floats],
        [*attribute.doubles],
        [text_of(string, of) for string in attribute.strings],
        [array_of(tensor, of) for tensor in attribute.tensors],
    ]
    filled = [field for field in fields if field]
    if len(filled) > 1:
        return None
    return filled[0] if filled else []


def _replaced(trees: tuple[_Tree, ...], named: Callable[[str], Any]) -> tuple[Any, ...]:
    """The same tuples, with what the words name, asked for in their order."""
    return tuple(named(tree) if isinstance(tree, str) else _replaced(tree, named) for tree in trees)


def _trees(text: str, of: str) -> tuple[_Tree, ...]:
    levels: list[list[_Tree]] = [[]]
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or len(levels) > _MAX_DEPTH:
            raise BadFileError(
                f"{of} has the form {text[:80]!r}, which breaks off or nests too deep"
            )
        place = token.end()
        if token["begin"]:
            levels.append([])
        elif token["word"]:
            levels[-1].append(token["word"])
        else:
            done = tuple(levels.pop())
            if not levels:
                raise BadFileError(f"{of} has the form {text[:80]!r}, with a bracket too many")
            levels[-1].append(done)
    if len(levels) > 1:
        raise BadFileError(f"{of} has the form {text[:80]!r}, with a bracket too few")
    return tuple(levels[0])
