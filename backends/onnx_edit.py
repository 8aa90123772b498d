"""Edits of ONNX graphs: where their weights are said to lie. Used by the stager, and by the
reference engine, whose evaluator takes weights as inputs."""

from collections.abc import Callable, Collection, Iterator, Mapping

import onnx

from weightd.backends.raw import RawTensors
from weightd.errors import CompileError
from weightd.weights.arrays import Array
from weightd.weights.dtypes import ITEMSIZE
from weightd.weights.source import TensorSpec


def lay_out(graph: bytes, raw: RawTensors) -> bytes:
    """The graph with each external weight at its place in `raw`. Weights inside the graph that raw
    has too (constants that a publish brought) get raw's bytes."""
    model = onnx.ModelProto.FromString(graph)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place(tensor, external(tensor)["location"], raw.offsets[tensor.name], nbytes_of(tensor))
        elif tensor.name in raw.offsets:
            set_bytes(tensor, bytes(raw.bytes_of(tensor.name)))
        else:
            tensor.ClearField("external_data")  # a file's own packed forms: never believed
    return serialized(model)


def with_constants(graph: bytes, tensors: Mapping[str, Array | memoryview]) -> bytes:
    """The graph with the bytes of these tensors in place of those that lie inside it."""
    model = onnx.ModelProto.FromString(graph)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.name in tensors:
            set_bytes(tensor, tensors[tensor.name].tobytes())
    return serialized(model)


def with_open_sizes(graph: bytes, sizes: Collection[tuple[str, int]]) -> bytes:
    """The graph with these axes of its inputs open: (input, axis). What it declares of the sizes of
    other values is taken back, too: they follow from the inputs'."""
    model = onnx.ModelProto.FromString(graph)
    for port in model.graph.input:
        for axis, dim in enumerate(port.type.tensor_type.shape.dim):
            if (port.name, axis) in sizes:
                dim.Clear()
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    return serialized(model)


def external_names(graph: bytes) -> list[str]:
    """The weights that a graph expects elsewhere."""
    model = onnx.ModelProto.FromString(graph)
    return [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def lent(
    optimised: bytes, location: str, read: Callable[[int, int], bytes]
) -> tuple[bytes, dict[str, TensorSpec], dict[str, int]]:
    """What onnxruntime saved: the graph with every external weight at offset 0 of `location`, the
    weights' specs, and where each lies in onnxruntime's own file.

    A session can be lent the weights of the outermost graph only. Those of a branch or loop body go
    back inside; read(nbytes, offset) gives the bytes of onnxruntime's file."""
    model = onnx.ModelProto.FromString(optimised)
    take_inside(model, read)
    specs: dict[str, TensorSpec] = {}
    places: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        spec = spec_of(tensor)
        found = external(tensor)
        if int(found["length"]) != spec.nbytes:
            raise CompileError(
                f"onnxruntime saved {found['length']} bytes for tensor {tensor.name!r}, which has "
                f"{spec.nbytes}"
            )
        specs[tensor.name] = spec
        places[tensor.name] = int(found.get("offset", "0"))
        place(tensor, location, 0, spec.nbytes)
    return serialized(model), specs, places


def take_inside(model: onnx.ModelProto, read: Callable[[int, int], bytes]) -> None:
    """Put the external weights of branches and loop bodies into the graph."""
    for tensor in _weights_inside(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found = external(tensor)
            set_bytes(tensor, read(int(found["length"]), int(found.get("offset", "0"))))


def weights_as_inputs(graph: bytes) -> onnx.ModelProto:
    """The graph with its external weights turned into inputs."""
    model: onnx.ModelProto = onnx.ModelProto.FromString(graph)
    inside = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    known = {port.name for port in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in known:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del model.graph.initializer[:]
    model.graph.initializer.extend(inside)
    return model


def _weights_inside(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of the branches and loop bodies of a graph, at every depth."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer
                yield from _weights_inside(inner)


def serialized(model: onnx.ModelProto) -> bytes:
    raw: bytes = model.SerializeToString()
    return raw


def external(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def place(tensor: onnx.TensorProto, location: str, offset: int, nbytes: int) -> None:
    """Say that a tensor's bytes lie there. Whatever was said before is gone."""
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", nbytes)):
        tensor.external_data.add(key=key, value=str(value))


def set_bytes(tensor: onnx.TensorProto, raw: bytes) -> None:
    for field in ("int64_data", "int32_data", "float_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = raw


def spec_of(tensor: onnx.TensorProto) -> TensorSpec:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    if dtype not in ITEMSIZE:
        raise CompileError(f"weight {tensor.name!r} has dtype {dtype}, which cannot be shared")
    return TensorSpec(tensor.name, dtype, tuple(tensor.dims))


def nbytes_of(tensor: onnx.TensorProto) -> int:
    return spec_of(tensor).nbytes
