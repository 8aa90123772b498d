"""What moves elements."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from tests.data.mindir.nets.case import Arrays, Case, normal, whole
from tests.data.mindir.nets.dynamic import growing
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((2, 3, 4)))
def reshapes(x: Any) -> Any:
    return (
        ops.reshape(x, (6, 4)),
        ops.reshape(x, (-1, 2)),
        x.view(4, -1),
        x.reshape(2, 1, 12),
        ops.flatten(x),
        ops.flatten(x, start_dim=0),
        mint.flatten(x, 1, 2),
        x.ravel(),
    )


@CASES.of(normal((2, 3, 4)))
def transposes(x: Any) -> Any:
    return (
        ops.transpose(x, (2, 0, 1)),
        ops.swapaxes(x, 0, -1),
        x.permute(1, 0, 2),
        x.T,
        ops.movedim(x, 0, 2),
        mint.transpose(x, 1, 2),
    )


@CASES.of(normal((2, 1, 3, 1)))
def axes_of_size_one(x: Any) -> Any:
    return (
        ops.squeeze(x),
        ops.squeeze(x, 1),
        ops.squeeze(x, -1),
        ops.expand_dims(x, 0),
        ops.expand_dims(x, -1),
        ops.unsqueeze(x, 2),
        x.squeeze((1, 3)),
    )


@CASES.of(normal((2, 3)))
def repeats(x: Any) -> Any:
    return (
        ops.tile(x, (2, 2)),
        ops.tile(x, (2, 1, 3)),
        ops.tile(x, (2,)),
        ops.repeat_interleave(x, 2, 0),
        ops.broadcast_to(x, (4, 2, 3)),
        ops.broadcast_to(x, (-1, 3)),
        x.expand_as(ops.zeros((5, 2, 3), ms.float32)),
    )


@CASES.of(normal((2, 3), (2, 3)))
def joins(x: Any, y: Any) -> Any:
    return (
        ops.concat((x, y), 0),
        ops.cat((x, y, x), -1),
        ops.stack((x, y), 1),
        ops.stack([x, y], -1),
        ops.hstack((x, y)),
    )


@CASES.of(
    normal((2, 3), (2, 3)),
    expected=lambda x, y: [np.tile(x, (2, 1)), np.concatenate((x, y), 1), np.stack((x, y))],
)
def of_mint(x: Any, y: Any) -> Any:
    return x.repeat(2, 1), mint.cat((x, y), 1), mint.stack((x, y))


@CASES.of(normal((3, 4)), expected=lambda x: [np.roll(x, 1, 0), np.roll(x, (-1, 5), (0, 1))])
def rolls(x: Any) -> Any:
    return ops.roll(x, 1, 0), ops.roll(x, (-1, 5), (0, 1))


@CASES.of(normal((2, 6, 3)))
def splits(x: Any) -> Any:
    return (
        ops.split(x, 2, 1),
        ops.split(x, [1, 2, 3], 1),
        ops.chunk(x, 3, 1),
        ops.unstack(x, 0),
        ops.unbind(x, 2),
        ops.Split(1, 2)(x),
        ops.split(x, 4, 1),
    )


@CASES.of(normal((1, 2, 4, 5)))
def pads(x: Any) -> Any:
    return (
        ops.pad(x, (1, 2)),
        ops.pad(x, (1, 2, 0, 3), value=-1.5),
        ops.pad(x, (1, 2, 2, 1), mode="reflect"),
        ops.pad(x, (1, 2, 2, 1), mode="replicate"),
        ops.pad(x, (-1, 1)),
    )


@CASES.of(normal((3, 4)))
def turns(x: Any) -> Any:
    return (
        ops.flip(x, (0,)),
        ops.flip(x, (0, 1)),
        x.flip((1,)),
    )


@CASES.of(normal((2, 4, 4)))
def triangles(x: Any) -> Any:
    return ops.triu(x), ops.tril(x, -1), ops.triu(x, 2), ops.tril(x > 0)


@CASES.of(whole((2, 3)))
def of_whole_numbers(x: Any) -> Any:
    return (
        ops.transpose(x, (1, 0)),
        ops.concat((x, x), 1),
        ops.tile(x, (2, 1)),
        ops.pad(x, (1, 1)),
        ops.stack((x, x)),
        x.astype(ms.int8).reshape(3, 2),
    )


@CASES.of(normal((2, 3)))
def of_bools(x: Any) -> Any:
    y = x > 0
    return ops.transpose(y, (1, 0)), ops.concat((y, y), 1), ops.tile(y, (2, 1)), y.reshape(3, 2)


@CASES.of(normal((1, 4, 4, 3)))
def grids(x: Any) -> Any:
    rows, columns = x[0, 0, :, 0], x[0, :3, 0, 1]
    return ops.meshgrid(rows, columns, indexing="ij"), ops.meshgrid(rows, columns)


class Layers(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.CellList(
            [
                nn.Flatten(),
                nn.Pad(((0, 0), (1, 2), (0, 0), (2, 1))),
                nn.Pad(((0, 0), (0, 0), (1, 2), (2, 1)), mode="REFLECT"),
                nn.ZeroPad2d((1, 2, 0, 3)),
                nn.ConstantPad2d(1, 2.5),
                nn.ReflectionPad2d((1, 2, 0, 1)),
                nn.ReplicationPad2d(1),
                nn.Unflatten(1, (1, 2)),
                nn.Identity(),
            ]
        )

    def construct(self, x: Any) -> Any:
        found = []
        for layer in self.layers:
            found.append(layer(x))  # noqa: PERF401 - MindSpore parses this
        return tuple(found)


@CASES.of(growing((-3,), (-2,)), shapes=[[None], [None]], runs=2)
def grids_of_open_sizes(x: Any, y: Any) -> Any:
    return ops.meshgrid(x, y), ops.meshgrid(x, y, x, indexing="ij"), ops.meshgrid(x, y, x)


def _rolled(x: Any) -> Arrays:
    yield np.roll(x, 5)
    yield np.roll(x, (1, -2), (0, 1))


@CASES.of(normal((3, 4)), expected=_rolled)
def rolled_in_a_row(x: Any) -> Any:
    return ops.roll(x, 5), ops.roll(x, (1, -2), (0, 1))


@CASES.of(normal((2, 1, 3)))
def squeezed_where_it_is_one(x: Any) -> Any:
    return mint.squeeze(x, 0), mint.squeeze(x, (0, 1)), x.contiguous() * 2, x.copy()


@CASES.of(normal((2, 3)), expected=lambda x: [x.T, x[0]])
def turned(x: Any) -> Any:
    return mint.t(x), mint.t(x[0])


def cases() -> Iterator[Case]:
    yield from CASES
    yield Case("layers", Layers, normal((1, 2, 4, 5)))
