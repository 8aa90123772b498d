"""Holds a translated graph against what the file declares: every value's dtype and shape.

ONNX's own inference goes through the graph; where it finds another dtype, rank or size than
MindSpore did, the translation is wrong, or the file is, and nothing of it may run.
"""

from collections.abc import Iterable, Mapping

import onnx

from weightd.errors import UnsupportedModelError
from weightd.weights.mindir.inference import tensor_type, value_info
from weightd.weights.mindir.proto import TensorType
from weightd.weights.mindir.values import Tensor


def check_types(
    model: onnx.ModelProto,
    weights: Iterable[Tensor],
    declared: Mapping[str, tuple[TensorType, str]],
) -> None:
    """UnsupportedModelError when a value is not of its declared type. declared: by name, and which
    node declares it. weights: what the graph may name besides its inputs and initializers."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.input.extend(value_info(tensor.name, tensor) for tensor in weights)
    try:
        inferred = onnx.shape_inference.infer_shapes(
            probe, check_type=True, strict_mode=True, data_prop=True
        )
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        raise UnsupportedModelError(
            f"what it was translated to contradicts itself ({str(error)[:500]})"
        ) from error
    for value in inferred.graph.value_info:
        if value.name in declared:
            type_, where = declared[value.name]
            check_declared(type_, tensor_type(value.type), where)


def check_declared(declared: TensorType, found: TensorType | None, where: str) -> None:
    """UnsupportedModelError when what was found contradicts what is declared."""
    if found is None:
        return
    if found.dtype != declared.dtype:
        raise UnsupportedModelError(
            f"{where} was translated to something that gives {found.dtype}; the file says "
            f"{declared.dtype}"
        )
    if declared.shape is None or found.shape is None:
        return
    is_same_rank = len(found.shape) == len(declared.shape)
    if not is_same_rank or any(
        -1 not in pair and pair[0] != pair[1]
        for pair in zip(found.shape, declared.shape, strict=True)
    ):
        raise UnsupportedModelError(
            f"{where} was translated to something that gives the shape {list(found.shape)}; the "
            f"file says {list(declared.shape)}"
        )
