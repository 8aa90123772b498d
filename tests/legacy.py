"""Today's MindIR rewritten as MindSpore 1.5 wrote it: what it says stays the same.

No MindSpore 1 runs on a Python of today. Forms are those of its mindir_exporter.cc; which settings
were attributes, and their names, those of its mindspore/ops/operations. A setting that 1.5 did not
have is left out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from weightd.weights.mindir.schema import parse

BOOL, INT64, TENSORS, TUPLE, LIST = 9, 7, 19, 20, 21
UMONAD, IOMONAD, NONE, SCALAR = 23, 24, 25, 39
UINT64 = 13

# Inputs from the first number on became attributes of these names; "": 1.5 had no such setting.
_ATTRIBUTES: dict[str, tuple[int, Sequence[str]]] = {
    **dict.fromkeys(("MatMul", "BatchMatMul"), (2, ("transpose_a", "transpose_b"))),
    "BiasAdd": (2, ("format",)),
    "BatchNorm": (5, ("is_training", "epsilon", "momentum", "format")),
    "LayerNorm": (3, ("begin_norm_axis", "begin_params_axis", "epsilon")),
    "AvgPool": (1, ("kernel_size", "strides", "pad_mode", "format")),
    **dict.fromkeys(
        ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceAll", "ReduceAny"),
        (2, ("keep_dims",)),
    ),
    "ReduceSum": (2, ("keep_dims", "")),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Concat", "Stack", "Squeeze"), (1, ("axis",))),
    "Split": (1, ("axis", "output_num")),
    **dict.fromkeys(("Argmax", "Argmin"), (1, ("axis", "output_type"))),
    **dict.fromkeys(("ArgMaxWithValue", "ArgMinWithValue"), (1, ("axis", "keep_dims"))),
    "StridedSlice": (
        4,
        ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"),
    ),
    "Gather": (3, ("",)),
    "OneHot": (4, ("axis",)),
    "TopK": (2, ("sorted",)),
    "CumSum": (2, ("exclusive", "reverse")),
    "ReverseV2": (1, ("axis",)),
    "Elu": (1, ("alpha",)),
    "Roll": (1, ("shift", "axis")),
}
_NAMES = {"format": {0: b"NCHW", 14: b"NCDHW"}, "pad_mode": {1: b"SAME", 2: b"VALID"}}
# As some version of MindSpore 1 called them.
_OPERATORS = {
    "Add": "TensorAdd",
    "FastGeLU": "FastGelu",
    "GeLU": "Gelu",
    "MakeTuple": "make_tuple",
    "Mul": "S-Prim-Mul",
    "Partial": "partial",
    "ScalarToTensor": "scalar_to_array",
    "StopGradient": "stop_gradient",
    "Sub": "S_Prim_Sub",
    "Switch": "switch",
    "TupleGetItem": "tuple_getitem",
}


def downgraded(raw: bytes) -> bytes:
    """A whole file, rewritten. ref_key stays: without it, parameters have other names."""
    model = parse("ModelProto", raw, "the model")
    primitives = {primitive.name: primitive for primitive in model.primitives}
    graphs = [model.graph, *model.functions]
    constants = {
        node.output[0]: node.attribute[0]
        for graph in graphs
        for node in graph.node
        if node.op_type == b"Constant"
    }
    for graph in graphs:
        for node in graph.node:
            _rewrite(node, primitives, constants)
        for value in (*graph.input, *graph.output):
            if value.HasField("attr_info"):
                _declare(value.attr_info)
    for attribute in constants.values():
        encode(attribute)
    for field in ("primitives", "mind_ir_version", "user_info", "producer_version"):
        model.ClearField(field)
    model.ir_version, model.model_version = b"0.1.0", b"1.5.0"
    written: bytes = model.SerializeToString()
    return written


def _rewrite(node: Any, primitives: Any, constants: Any) -> None:
    """One node: its operator's name and attributes into itself."""
    for attribute in node.attribute:
        if attribute.name == b"shape":
            _declare(attribute)
    primitive = primitives.get(node.op_type.removeprefix(b"REF::"))
    if primitive is None:
        return
    op = primitive.op_type.decode()
    node.op_type = _OPERATORS.get(op, op).encode()
    declared = len(node.attribute)
    node.attribute.extend(primitive.attribute)
    first, names = _ATTRIBUTES.get(op, (0, ()))
    settings = [constants.get(name) for name in node.input[first:]]
    if names and not primitive.attribute and None not in settings:
        _add_settings(node, names, settings)
        del node.input[first:]
    for attribute in node.attribute[declared:]:
        encode(attribute)


def _add_settings(node: Any, names: Sequence[str], settings: Sequence[Any]) -> None:
    for name, setting in zip(names, settings, strict=False):
        if name:
            node.attribute.add().CopyFrom(setting)
            node.attribute[-1].name = name.encode()
            _name_choice(node.attribute[-1], name)


def _name_choice(attribute: Any, name: str) -> None:
    """Formats and pad modes were texts."""
    if name in _NAMES and attribute.type == INT64:
        attribute.s = _NAMES[name][attribute.i]
        attribute.ClearField("i")
        attribute.type = 8


def encode(attribute: Any) -> None:
    """A constant: SetValueToAttributeProto."""
    match attribute.type:
        case n if n in (TUPLE, LIST):
            attribute.ref_attr_name = b"scalar:" + _flatten(attribute, attribute.values, n)
            attribute.ClearField("values")
        case n if n == TENSORS:
            has_bytes = bool(attribute.tensors[0].raw_data or 0 in attribute.tensors[0].dims)
            attribute.ref_attr_name = b"tensor:value0" if has_bytes else b"type:value0"
        case n if n in (UMONAD, IOMONAD):
            attribute.ref_attr_name = b"Monad:UMonad" if n == UMONAD else b"Monad:IOMonad"
            attribute.ClearField("type")
        case n if n == NONE:
            attribute.ref_attr_name = b"none"
            attribute.ClearField("type")
        case _:
            attribute.ref_attr_name = b"scalar:value0"


def _flatten(attribute: Any, values: Iterable[Any], kind: int, count: int = 0) -> bytes:
    """SetSequenceToAttributeProto: parts into the outermost attribute's fields, in order."""
    text = b""
    attribute.type = TENSORS
    for value in list(values):
        if value.type in (TUPLE, LIST):
            text += _flatten(attribute, value.values, value.type, count + text.count(b"value"))
            continue
        text += f"value{count + text.count(b'value') + 1},".encode()
        attribute.type = value.type
        for field in ("ints", "floats", "doubles", "strings", "tensors"):
            getattr(attribute, field).extend(getattr(value, field))
    return (b"Tuple[" if kind == TUPLE else b"List[") + text + b"],"


def _declare(attribute: Any) -> None:
    """A declared type: SetShapeToNodeProto."""
    tensors: list[Any] = []
    text = _declared(attribute, tensors)
    is_bool = text == b"" and attribute.type == SCALAR
    for field in ("name", "type", "values", "tensors"):
        attribute.ClearField(field)
    if is_bool:
        attribute.type = BOOL
    attribute.ref_attr_name = b"shape:" + text
    attribute.tensors.extend(tensors)


def _declared(attribute: Any, tensors: list[Any]) -> bytes:
    match attribute.type:
        case n if n in (TUPLE, LIST):
            return b"Tuple[" + b"".join(_declared(v, tensors) for v in attribute.values) + b"],"
        case n if n == SCALAR and attribute.tensors[0].data_type == BOOL:
            return b""
        case n if n in (SCALAR, TENSORS):
            tensor = type(attribute.tensors[0])()
            tensor.CopyFrom(attribute.tensors[0])
            if n == SCALAR:
                tensor.data_type, tensor.dims[:] = UINT64, [1]
            tensors.append(tensor)
            name = f"shape{len(tensors)}"
            tensor.name = name.encode()
            return f"{name},".encode()
        case n if n in (UMONAD, IOMONAD):
            return b"UMonad," if n == UMONAD else b"IOMonad,"
        case _:
            return b"Func,"
