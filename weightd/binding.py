"""MindSpore Lite's Tensors, and the inputs and outputs of a home: what goes in, what comes out."""

from collections.abc import Collection, Mapping, Sequence

from weightd.backends.ports import TensorInfo
from weightd.checks import check_each
from weightd.tensor import Tensor, TensorMeta, data_type_of
from weightd.weights.arrays import Array

Shape = tuple[int, ...]


def shape_of(info: TensorInfo) -> Shape:
    """A size that is open is -1."""
    return tuple(dim if isinstance(dim, int) else -1 for dim in info.shape)


def input_tensor(name: str, info: TensorInfo, shape: Shape) -> Tensor:
    """An input to be filled."""
    return Tensor._empty(name, data_type_of(info.dtype), shape)


def output_meta(name: str, info: TensorInfo, shape: Shape) -> TensorMeta:
    """What an output will be."""
    like = input_tensor(name, info, shape)
    meta = TensorMeta()
    meta.name, meta.dtype, meta.shape, meta.format = name, like.dtype, like.shape, like.format
    meta.element_num, meta.data_size = like.element_num, like.data_size
    return meta


def check_outputs(outputs: object) -> list[Tensor]:
    """Preallocated outputs, or []; TypeError when they are no list of Tensor."""
    if outputs is None:
        return []
    return check_each("outputs", outputs, Tensor)


def array_of(tensor: Tensor, name: str) -> Array:
    """The data of an input; ValueError when it has none."""
    array = tensor.array()
    if array is None:
        raise ValueError(
            f"input {name!r} has no data: call set_data_from_numpy() on its tensor"
            + (", after resize()" if -1 in tensor.shape else "")
        )
    return array


def results(
    names: Collection[str], found: Mapping[str, Array], outputs: Sequence[Tensor]
) -> list[Tensor]:
    """The outputs as Tensors: new ones, or those that were brought, filled in place."""
    if not outputs:
        return [Tensor._of(name, found[name]) for name in names]
    if len(outputs) != len(names):
        raise ValueError(
            f"the model has {len(names)} outputs, {len(outputs)} tensors came for them"
        )
    for name, tensor in zip(names, outputs, strict=True):
        _check_room(name, tensor, found[name])
    for name, tensor in zip(names, outputs, strict=True):
        tensor._take(found[name])
    return list(outputs)


def _check_room(name: str, tensor: Tensor, array: Array) -> None:
    room = tensor.array()
    if room is None:
        return
    if room.dtype != array.dtype or room.nbytes != array.nbytes:
        raise ValueError(
            f"output {name!r} is {array.dtype}{list(array.shape)}, which the tensor that was "
            f"brought for it, {room.dtype}{list(room.shape)}, cannot take"
        )
    if not room.flags.writeable:
        raise ValueError(f"the tensor that was brought for output {name!r} is read-only")


def as_arrays(tensors: Sequence[Tensor]) -> list[Array]:
    """The data of weights that are to be replaced; ValueError when one has none."""
    found = [tensor.array() for tensor in tensors]
    for tensor, array in zip(tensors, found, strict=True):
        if array is None:
            raise ValueError(f"weight {tensor.name!r} has no data: call set_data_from_numpy()")
    return [array for array in found if array is not None]
