"""A MindIR model as an ONNX model: walks the graphs, and looks each operator up in the table.

Calls of other graphs, and branches, are done here. What moves values or computes is in ops/.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx

from weightd.errors import BadFileError, UnsupportedModelError
from weightd.weights.mindir.call import Call, refused
from weightd.weights.mindir.check import check_declared, check_types
from weightd.weights.mindir.emitter import Emitter
from weightd.weights.mindir.graph import Graph, Model, Node
from weightd.weights.mindir.inference import narrowed_down
from weightd.weights.mindir.ops.table import OPS, Result
from weightd.weights.mindir.proto import Monad, TensorType, Type
from weightd.weights.mindir.values import Closure, Switch, Tensor, Untranslated, Value

_MISFITS = (ArithmeticError, LookupError, TypeError, ValueError)
_MAX_GROWTH = 100  # graphs are written where they are called, however often
_WAY_OUT = (
    "have MindSpore export it as ONNX (mindspore.export(..., file_format='ONNX')), or load its "
    "weights alone (--weights-only)"
)


class Translated(NamedTuple):
    """An ONNX model without the initializers of its weights. used: the weights that it names."""

    model: onnx.ModelProto
    used: frozenset[str]


def translated(
    model: Model, weights: Mapping[str, TensorType], stable_names: Mapping[str, str], file_name: str
) -> Translated:
    """Translate a model. weights: by their stable names, under which the ONNX graph names them;
    stable_names: those of the graph's own names for its parameters.

    UnsupportedModelError names the operator, where it stands and what to do instead.
    """
    try:
        return _Translator(model, weights, stable_names).run()
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{file_name} ({model.producer} {model.version}) cannot be translated: {error}; "
            f"{_WAY_OUT}"
        ) from error


class _Translator:
    def __init__(
        self, model: Model, weights: Mapping[str, TensorType], stable_names: Mapping[str, str]
    ) -> None:
        self._model = model
        self._emitter = Emitter(list(weights))
        self._running: list[str] = []
        graphs = (model.main, *model.functions.values())
        self._nodes_left = 1000 + _MAX_GROWTH * sum(len(graph.nodes) for graph in graphs)
        self._declared: dict[str, tuple[TensorType, str]] = {}
        self._used: set[str] = set()
        self._weights = {
            name: self._emitter.introduce(Tensor.of(stable, weights[stable]))
            for name, stable in stable_names.items()
        }

    def run(self) -> Translated:
        main = self._model.main
        inputs = [self._input(name, type_) for name, type_ in main.inputs]
        values = self._graph(main, inputs)
        flat = _flattened(values)
        outputs = [
            self._output(value, "output" if len(flat) == 1 else f"output_{index}")
            for index, value in enumerate(flat)
        ]
        name = main.name.rpartition("_construct_")[0] or main.name
        notes = dict(self._model.notes)
        model = self._emitter.model(name, inputs, outputs, notes)
        check_types(model, self._weights.values(), self._declared)
        return Translated(model, frozenset(self._used))

    def _input(self, name: str, type_: Type) -> Tensor:
        short = name.rpartition(":")[2]
        if not isinstance(type_, TensorType):
            raise UnsupportedModelError(f"input {short!r} is not one tensor")
        if type_.shape is None:
            raise UnsupportedModelError(
                f"input {short!r} declares no rank: export it with a shape, open sizes as None"
            )
        return self._emitter.introduce(Tensor.of(self._emitter.name(short), type_))

    def _output(self, value: Value, name: str) -> Tensor:
        """Outputs are named by us, so that they are the same for each export."""
        tensor = self._as_tensor(value)
        (named,) = self._emitter.emit("Identity", [tensor.name], name)
        return replace(tensor, name=named)

    def _as_tensor(self, value: Value) -> Tensor:
        match value:
            case Tensor():
                return value
            case np.ndarray():
                return self._emitter.constant(value)
            case bool() | int() | float():
                array = np.asarray(value)
                return self._emitter.constant(
                    array.astype(np.float32) if isinstance(value, float) else array
                )
            case Untranslated(why):
                raise UnsupportedModelError(f"the graph gives back what has no counterpart: {why}")
            case _:
                raise UnsupportedModelError(
                    f"the graph gives back a {type(value).__name__}, not a tensor"
                )

    # --- graphs --------------------------------------------------------------------------

    def _graph(self, graph: Graph, arguments: Sequence[Value]) -> Value:
        """What a graph gives for these arguments; its nodes are written where it is called."""
        if graph.name in self._running:
            raise UnsupportedModelError(
                f"the graph {graph.name[-64:]!r} calls itself: a while loop, or a for loop whose "
                "length is known only when it runs; give the loop a fixed length, so that "
                "MindSpore unrolls it"
            )
        if len(arguments) != len(graph.inputs):
            raise BadFileError(
                f"graph {graph.name!r} takes {len(graph.inputs)} arguments and is called with "
                f"{len(arguments)}"
            )
        self._running.append(graph.name)
        names = (name for name, _ in graph.inputs)
        found: dict[str, Value] = dict(zip(names, arguments, strict=True))
        for node in graph.nodes:
            self._nodes_left -= 1
            if self._nodes_left < 0:
                raise UnsupportedModelError(
                    f"its graphs call each other so often that it would have more than "
                    f"{_MAX_GROWTH} times the nodes of the file"
                )
            found[node.output] = self._node(node, found)
        self._running.pop()
        values = tuple(self._value(name, found) for name in graph.outputs)
        return values[0] if len(values) == 1 else values

    def _value(self, name: str, found: Mapping[str, Value]) -> Value:
        if name in found:
            return found[name]
        if name in self._weights:
            self._used.add(self._weights[name].name)
            return self._weights[name]
        if name in self._model.constants:
            return self._model.constants[name]
        if name in self._model.functions:
            return Closure(self._model.functions[name], ())
        raise BadFileError(f"the graph uses {name[-64:]!r} before anything gives it")

    def _node(self, node: Node, found: Mapping[str, Value]) -> Value:
        args = [self._value(name, found) for name in node.inputs]
        if not node.op:
            return self._called(self._value(node.callee, found), args, node)
        match node.op:
            case "UpdateState":
                return Monad()
            case "Partial" if args and isinstance(args[0], Closure):
                return Closure(args[0].graph, (*args[0].arguments, *args[1:]))
            case "Switch" if len(args) == 3:
                return self._switch(args, node)
            case _:
                call = Call(node, [a for a in args if not isinstance(a, Monad)], self._emitter)
                return self._translated(call, node)

    def _translated(self, call: Call, node: Node) -> Value:
        translation = OPS.get(node.op)
        if translation is None:
            raise call.refused("this operator is not translated")
        try:
            result = translation(call)
        except _MISFITS as error:  # a node without the arguments that its operator always has
            raise call.refused(
                f"its arguments are not those of the operator ({type(error).__name__}: {error})"
            ) from error
        return self._typed(result, node)

    def _typed(self, result: Result, node: Node) -> Value:
        """A translation's result: names get the types that the file declares."""
        if isinstance(result, str):
            return self._typed_name(result, node.type, node)
        if isinstance(result, Tensor) and isinstance(node.type, TensorType):
            return self._typed_name(result.name, node.type, node)
        if isinstance(result, list):
            types = node.type if isinstance(node.type, tuple) else ()
            if len(types) != len(result):
                raise BadFileError(
                    f"{node.op} at {node.scope} declares {len(types)} results; it has {len(result)}"
                )
            pairs = zip(result, types, strict=True)
            return tuple(
                self._typed_name(part, type_, node) if isinstance(part, str) else part
                for part, type_ in pairs
            )
        return result

    def _typed_name(self, name: str, type_: Type, node: Node) -> Value:
        if isinstance(type_, tuple) and len(type_) == 1:
            return (self._typed_name(name, type_[0], node),)
        if not isinstance(type_, TensorType):
            raise BadFileError(f"{node.op} at {node.scope} does not declare what type it gives")
        where, found = f"{node.op} at {node.scope}", self._emitter.type_of(name)
        check_declared(type_, found, where)
        self._declared[name] = (type_, where)
        return Tensor.of(name, narrowed_down(type_, found))

    # --- calls and branches --------------------------------------------------------------

    def _called(self, callee: Value, args: Sequence[Value], node: Node) -> Value:
        match callee:
            case Closure(graph, arguments):
                return self._graph(graph, (*arguments, *args))
            case Switch():
                return self._branched(callee, args, node)
            case _:
                raise refused(node, "it calls what is no graph")

    def _switch(self, args: Sequence[Value], node: Node) -> Value:
        condition, if_true, if_false = args
        if isinstance(condition, np.ndarray) and condition.size == 1:
            condition = bool(condition)
        if isinstance(condition, bool):
            return if_true if condition else if_false
        if not isinstance(condition, Tensor):
            raise refused(node, "its condition is no tensor")
        if isinstance(if_true, Tensor | np.ndarray):  # both are there already: one is chosen
            tensors = [self._as_tensor(value).name for value in (if_true, if_false)]
            (name,) = self._emitter.emit("Where", [condition.name, *tensors], node.scope)
            return self._typed(name, node)
        return Switch(condition, if_true, if_false)

    def _branched(self, switch: Switch, args: Sequence[Value], node: Node) -> Value:
        """An If: each closure becomes a graph of its own, which sees all that is outside."""
        condition = self._condition(switch.condition, node)
        types = _flat_types(node.type)
        if types is None:
            raise refused(node, "its branches do not declare what type they give")
        closures = {"then_branch": switch.if_true, "else_branch": switch.if_false}
        graphs = {
            key: self._branch(key, closure, args, types, node) for key, closure in closures.items()
        }
        scope = f"{node.scope}/If"
        names = self._emitter.emit("If", [condition], scope, len(types), **graphs)
        for name, type_ in zip(names, types, strict=True):
            self._declared[name] = (type_, f"the branches at {node.scope}")
        tensors = iter([Tensor.of(name, type_) for name, type_ in zip(names, types, strict=True)])
        return _nested(node.type, tensors)

    def _branch(
        self,
        name: str,
        closure: Value,
        args: Sequence[Value],
        types: Sequence[TensorType],
        node: Node,
    ) -> onnx.GraphProto:
        outputs: list[Tensor] = []
        with self._emitter.branch(name, outputs) as graph:
            flat = _flattened(self._called(closure, args, node))
            if len(flat) != len(types):
                raise refused(node, f"a branch gives {len(flat)} values and not {len(types)}")
            for value, type_ in zip(flat, types, strict=True):
                tensor = self._output(value, f"{node.scope}/{name}")
                outputs.append(Tensor.of(tensor.name, type_))
        return graph

    def _condition(self, condition: Tensor, node: Node) -> str:
        call = Call(node, (), self._emitter)
        return call.reshaped(call.cast(condition, "bool"), ()).name


def _flattened(value: Value) -> list[Value]:
    """The parts of however deep a tuple, without monads."""
    if isinstance(value, tuple):
        return [part for item in value for part in _flattened(item)]
    return [] if isinstance(value, Monad) else [value]


def _flat_types(type_: Type) -> list[TensorType] | None:
    if isinstance(type_, TensorType):
        return [type_]
    if type_ is None:
        return None
    parts = [_flat_types(part) for part in type_]
    return None if None in parts else [found for part in parts for found in part or ()]


def _nested(type_: Type, tensors: Iterable[Tensor]) -> Value:
    """The tensors in tuples as the type has them."""
    iterator = iter(tensors)
    if isinstance(type_, tuple):
        return tuple(_nested(part, iterator) for part in type_)
    return next(iterator)
