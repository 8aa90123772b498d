"""MindIR files as MindSpore 1.x wrote them: made of today's, by its exporter's own rules."""

from typing import Any

from weightd.weights.mindir.schema import parse

_TUPLES = (20, 21)
_MONADS = {23: b"Monad:UMonad", 24: b"Monad:IOMonad"}
_INTEGERS = (2, 3, 4, 5, 6, 7, 9, 12, 13)


def downgraded(raw: bytes) -> bytes:
    """The same model without a table of primitives and without types of attributes' parts."""
    model = parse("ModelProto", raw, "a case")
    primitives = {primitive.name: primitive for primitive in model.primitives}
    for graph in (model.graph, *model.functions):
        for parameter in graph.parameter:
            parameter.ClearField("ref_key")
            parameter.ClearField("compression_type")
        for node in graph.node:
            own = primitives.get(node.op_type.removeprefix(b"REF::"))
            if own is not None:
                node.op_type = own.op_type
                node.attribute.extend(own.attribute)
            for attribute in node.attribute:
                _downgrade(attribute)
    del model.primitives[:]
    model.ClearField("mind_ir_version")
    model.ir_version, model.model_version = b"0.1.0", b"1.5.0"
    raw_again: bytes = model.SerializeToString()
    return raw_again


def _downgrade(attribute: Any) -> None:
    if attribute.name == b"shape":
        _declare(attribute)
    elif attribute.type in _TUPLES:
        _spread(attribute)
    elif attribute.type in _MONADS:
        attribute.ref_attr_name = _MONADS[attribute.type]
        attribute.ClearField("type")
    elif attribute.type == 25:
        attribute.ref_attr_name = b"none"
        attribute.ClearField("type")
    elif attribute.tensors:
        attribute.ref_attr_name = b"tensor:value0"
    else:
        attribute.ref_attr_name = b"scalar:value0"


def _declare(attribute: Any) -> None:
    tensors: list[Any] = []
    text = _types(attribute, tensors)
    copies = [tensor.SerializeToString() for tensor in tensors]
    for field in ("name", "type", "values", "tensors", "s"):
        attribute.ClearField(field)
    for copy in copies:
        attribute.tensors.add().MergeFromString(copy)
    attribute.ref_attr_name = f"shape:{text}".encode()


def _types(attribute: Any, tensors: list[Any]) -> str:
    if attribute.type in _TUPLES:
        return "Tuple[" + "".join(_types(value, tensors) for value in attribute.values) + "],"
    if not attribute.tensors:
        return "Function,"
    tensors.append(attribute.tensors[0])
    return f"shape{len(tensors)},"


def _spread(attribute: Any) -> None:
    """The parts of a tuple into the fields of the attribute itself."""
    parts: list[Any] = []
    text = _places(attribute, parts)
    attribute.type = 19
    for part in parts:
        attribute.type = part.type
        if part.type in _INTEGERS:
            attribute.ints.extend(part.ints or [part.i])
        else:
            attribute.floats.extend(part.floats)
            attribute.strings.extend(part.strings)
    attribute.ClearField("values")
    attribute.ref_attr_name = f"scalar:{text}".encode()


def _places(attribute: Any, parts: list[Any]) -> str:
    if attribute.type in _TUPLES:
        return "Tuple[" + "".join(_places(value, parts) for value in attribute.values) + "],"
    parts.append(attribute)
    return f"value{len(parts)},"
