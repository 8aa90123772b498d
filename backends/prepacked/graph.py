"""Edits of the graphs that onnxruntime saves with packed weights. For the stager: imports onnx.

Beside its plain form a weight in such a graph has, for each kernel that packed it, an entry

    prepacked_0 = KEY | offset;length;padding | …        one place for each packed buffer

in its external data. KEY names the operator and has a hash of the packed bytes.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import onnx

from weightd.backends import onnx_edit
from weightd.backends.onnxruntime import WEIGHTS
from weightd.backends.prepacked.plan import OURS, Range
from weightd.errors import CompileError
from weightd.weights.source import TensorSpec

_ENTRY = "prepacked_"


class Buffer(NamedTuple):
    """One packed buffer: its place in onnxruntime's file, and what the entry says of padding."""

    place: Range
    padding: str


class Packed(NamedTuple):
    """One entry: a weight as one kernel wants it."""

    key: str
    buffers: tuple[Buffer, ...]


class Weight(NamedTuple):
    """An external weight of the outermost graph. use: the one node that takes it and where, None
    when there are several, or none, or the graph gives it out."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: Range
    packed: tuple[Packed, ...]
    use: str | None

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


class SavedGraph:
    """A graph that onnxruntime saved; `read` gives bytes of its weights file. named: weights whose
    names are somebody's; what the optimiser named itself gets a name by its place. None for a graph
    whose names were given here before."""

    def __init__(
        self, raw: bytes, read: Callable[[int, int], bytes], named: Collection[str] | None = None
    ) -> None:
        self._model = onnx.ModelProto.FromString(raw)
        onnx_edit.take_inside(self._model, read)
        if named is not None:
            _rename(self._model.graph, named)
        self._tensors = [
            tensor
            for tensor in self._model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        ]
        self.has_subgraphs = any(_has_subgraph(node) for node in self._model.graph.node)
        self.weights = tuple(self._weights())

    def placed(self, raw: Mapping[str, int], packed: Mapping[str, tuple[Packed, ...]]) -> bytes:
        """The graph with each weight at this offset of the file WEIGHTS, and these entries."""
        for tensor in self._tensors:
            onnx_edit.place(tensor, WEIGHTS, raw[tensor.name], onnx_edit.nbytes_of(tensor))
            for number, entry in enumerate(packed.get(tensor.name, ())):
                tensor.external_data.add(key=f"{_ENTRY}{number}", value=_text(entry))
        return onnx_edit.serialized(self._model)

    def is_same_as(self, other: "SavedGraph") -> bool:
        """Whether the graphs differ in nothing but where their weights lie."""
        return self._without_places() == other._without_places()

    def _without_places(self) -> bytes:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.ClearField("external_data")
        return onnx_edit.serialized(model)

    def _weights(self) -> "list[Weight]":
        graph = self._model.graph
        uses = Counter(name for node in graph.node for name in node.input)
        uses.update(output.name for output in graph.output)
        taker = {
            name: f"{node.op_type}:{position}"
            for node in graph.node
            for position, name in enumerate(node.input)
        }
        given_out = {output.name for output in graph.output}
        return [
            Weight(
                *onnx_edit.spec_of(tensor),
                _place(tensor),
                _packed(tensor),
                taker[tensor.name]
                if uses[tensor.name] == 1 and tensor.name not in given_out
                else None,
            )
            for tensor in self._tensors
        ]


def _rename(graph: onnx.GraphProto, named: Collection[str]) -> None:
    """Make the graph the same whenever it is compiled. Names that the optimiser made up depend on
    the order of a hash table, which differs from process to process, and so does that of what is
    kept in one."""
    if not any(_has_subgraph(node) for node in graph.node):  # which may mean any name of ours
        names = _names_by_place(graph, {*named, *(output.name for output in graph.output)})
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for tensor in graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        node.doc_string = ""
    graph.initializer.sort(key=lambda tensor: tensor.name)
    graph.ClearField("value_info")


def _names_by_place(graph: onnx.GraphProto, kept: Collection[str]) -> dict[str, str]:
    """A name for every value and weight but the kept ones: which node takes or gives it, where."""
    weights = {tensor.name for tensor in graph.initializer} - {*kept}
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            if name in weights:
                names.setdefault(name, f"{OURS}{number}.in{position}")
        for position, name in enumerate(node.output):
            if name and name not in kept:
                names[name] = f"{OURS}{number}.out{position}"
    return names


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _place(tensor: onnx.TensorProto) -> Range:
    found = onnx_edit.external(tensor)
    place = Range(int(found.get("offset", "0")), int(found["length"]))
    if place.nbytes != onnx_edit.nbytes_of(tensor):
        raise CompileError(
            f"onnxruntime saved {place.nbytes} bytes for tensor {tensor.name!r}, which has "
            f"{onnx_edit.nbytes_of(tensor)}"
        )
    return place


def _packed(tensor: onnx.TensorProto) -> tuple[Packed, ...]:
    found = onnx_edit.external(tensor)
    entries = sorted(key for key in found if key.startswith(_ENTRY))
    return tuple(_parsed(found[key], tensor.name) for key in entries)


def _parsed(text: str, of: str) -> Packed:
    key, *places = text.split("|")
    try:
        buffers = [place.split(";") for place in places]
        return Packed(key, tuple(Buffer(Range(int(o), int(n)), rest) for o, n, rest in buffers))
    except ValueError as error:
        raise CompileError(
            f"onnxruntime describes packed weights in a way that is new ({of!r}: {text[:80]!r})"
        ) from error


def _text(entry: Packed) -> str:
    places = [f"{b.place.offset};{b.place.nbytes};{b.padding}" for b in entry.buffers]
    return "|".join([entry.key, *places])
