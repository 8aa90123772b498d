"""A MindIR file's graphs and nodes as types: parsed once, checked, and trusted from there on.

Two dialects become one. Since MindSpore 1.7 a node names a primitive of the model's table
(REF::Conv2D:4); before, it has the operator's name and attributes itself (legacy.py). Operators and
attributes have today's names, whichever version wrote the file (legacy_names.py).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from weightd.errors import BadFileError
from weightd.weights.mindir import legacy
from weightd.weights.mindir.legacy_names import attributes_of, legacy_operator_of, operator_of
from weightd.weights.mindir.proto import (
    Constant,
    Type,
    constant_of,
    tensor_types,
    text_of,
    type_of,
)

_REFERENCE = "REF::"
_CONSTANT = "Constant"
_DECLARED = b"shape"  # the attribute that declares the type of a node's value


class Node(NamedTuple):
    """One node. op: the operator, or "" for a call; callee: the graph or node that is called.
    scope: where in the network it stands, for people. type: of its value, as declared."""

    op: str
    callee: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Constant]
    type: Type
    scope: str


class Graph(NamedTuple):
    """The main graph, or one that it calls. nodes: in the file's order, which is that of use."""

    name: str
    inputs: tuple[tuple[str, Type], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]


class Model(NamedTuple):
    """All of a file but its parameters. constants: of every graph, since they share their names.
    producer, version: who wrote it. notes: the user's own, by key."""

    main: Graph
    functions: Mapping[str, Graph]
    constants: Mapping[str, Constant]
    producer: str
    version: str
    notes: Mapping[str, str]


def parsed_model(proto: Any, file_name: str) -> Model:
    """BadFileError when the file contradicts itself."""
    _check_readable(proto, file_name)
    parser = _Parser(proto, file_name)
    graphs = [parser.graph(graph) for graph in (proto.graph, *proto.functions)]
    functions = {graph.name: graph for graph in graphs[1:]}
    if len(functions) != len(graphs) - 1:
        raise BadFileError(f"{file_name} has two graphs of the same name")
    return Model(
        main=graphs[0],
        functions=functions,
        constants=parser.constants,
        producer=text_of(proto.producer_name, f"{file_name}: its producer") or "MindSpore",
        version=_version(proto, file_name),
        notes={
            text_of(note.key, f"{file_name}: user_info"): text_of(note.value, "user_info")
            for note in proto.user_info
        },
    )


def _check_readable(proto: Any, file_name: str) -> None:
    if proto.HasField("little_endian") and not proto.little_endian:
        raise BadFileError(f"{file_name} was written by a big-endian machine; export it on another")
    if proto.graph.map_parameter:
        raise BadFileError(f"{file_name} has hash table parameters, which cannot be shared")
    if any(graph.parameter for graph in proto.functions):
        raise BadFileError(f"{file_name} has parameters in a graph that is called")


def _version(proto: Any, file_name: str) -> str:
    for raw in (proto.model_version, proto.producer_version):
        if version := text_of(raw, f"{file_name}: its version"):
            return version
    return f"of IR version {text_of(proto.ir_version, f'{file_name}: its IR version') or '?'}"


class _Parser:
    """The graphs of one file; collects their constants."""

    def __init__(self, proto: Any, file_name: str) -> None:
        self._file_name = file_name
        self.constants: dict[str, Constant] = {}
        self._primitives = {
            self._text(primitive.name, "a primitive"): primitive for primitive in proto.primitives
        }

    def graph(self, proto: Any) -> Graph:
        name = self._text(proto.name, "a graph")
        inputs = tuple(self._input(value) for value in proto.input)
        nodes = [self._node(node) for node in proto.node]
        outputs = tuple(self._text(value.name, f"an output of {name}") for value in proto.output)
        if not outputs:
            raise BadFileError(f"{self._file_name}: graph {name!r} has no output")
        return Graph(name, inputs, tuple(node for node in nodes if node is not None), outputs)

    def _input(self, value: Any) -> tuple[str, Type]:
        name = self._text(value.name, "an input")
        of = f"{self._file_name}: input {name[-64:]!r}"
        if value.tensor:
            return name, tensor_types(value.tensor, of)
        return name, _type_of(value.attr_info, of)

    def _node(self, proto: Any) -> Node | None:
        """None for a constant, which is kept apart."""
        outputs = [self._text(output, "an output") for output in proto.output]
        if len(outputs) != 1:
            raise BadFileError(f"{self._file_name}: a node has {len(outputs)} outputs, not one")
        of = f"{self._file_name}: node {outputs[0][-64:]!r}"
        op_type = self._text(proto.op_type, f"{of}: its operator")
        if op_type == _CONSTANT:
            self._add_constant(outputs[0], proto, of)
            return None
        op, callee, listed = self._operator(op_type, proto.attribute)
        return Node(
            op=op,
            callee=callee,
            inputs=tuple(self._text(name, f"{of}: an input") for name in proto.input),
            output=outputs[0],
            attributes=attributes_of(op, self._attributes(listed, of)),
            type=self._declared(proto.attribute, of),
            scope=self._text(proto.domain or proto.name, f"{of}: its scope"),
        )

    def _operator(self, op_type: str, own: Iterable[Any]) -> tuple[str, str, list[Any]]:
        """The operator, or what is called instead, and where its attributes are listed."""
        settings = [attribute for attribute in own if not _declares_type(attribute)]
        if not op_type.startswith(_REFERENCE):
            return legacy_operator_of(op_type), "", settings
        name = op_type.removeprefix(_REFERENCE)
        primitive = self._primitives.get(name)
        if primitive is None:
            return "", name, []
        op = self._text(primitive.op_type, f"primitive {name!r}")
        return operator_of(op), "", [*primitive.attribute, *settings]

    def _add_constant(self, name: str, proto: Any, of: str) -> None:
        values = [a for a in proto.attribute if a.name == b"value"] or list(proto.attribute)
        if len(values) != 1:
            raise BadFileError(f"{of} is a constant with {len(values)} values")
        value = self._constant(values[0], of)
        if name in self.constants:
            raise BadFileError(f"{of}: two constants of this name")
        self.constants[name] = value

    def _attributes(self, listed: Iterable[Any], of: str) -> dict[str, Constant]:
        return {
            name: self._constant(attribute, f"{of}: attribute {name[:64]!r}")
            for attribute in listed
            if (name := self._text(attribute.name, f"{of}: an attribute"))
        }

    def _constant(self, attribute: Any, of: str) -> Constant:
        if legacy.is_legacy(attribute):
            return legacy.constant_of(attribute, of)
        return constant_of(attribute, of)

    def _declared(self, attributes: Iterable[Any], of: str) -> Type:
        for attribute in attributes:
            if _declares_type(attribute):
                return _type_of(attribute, of)
        return None

    def _text(self, raw: bytes, what: str) -> str:
        return text_of(raw, f"{self._file_name}: {what}")


def _declares_type(attribute: Any) -> bool:
    """Of a node's own attributes; an operator may have one that is called "shape", too."""
    if legacy.is_legacy(attribute):
        return legacy.declares_type(attribute)
    return bool(attribute.name == _DECLARED)


def _type_of(attribute: Any, of: str) -> Type:
    return (legacy.type_of if legacy.is_legacy(attribute) else type_of)(attribute, of)
