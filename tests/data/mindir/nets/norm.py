"""Normalisation."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from mindspore import mint, nn, ops

from tests.data.mindir.nets.case import Case, normal
from tests.data.mindir.nets.conv import Together
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((3, 4, 5)))
def vectors(x: Any) -> Any:
    return (
        ops.L2Normalize(1)(x),
        ops.L2Normalize(-1, 1e-12)(x),
        ops.norm(x, 2, 1),
        ops.norm(x, 1, -1, keepdim=True),
    )


@CASES.of(normal((2, 6, 3, 4)))
def local_response(x: Any) -> Any:
    return ops.lrn(x, 2, 1.0, 0.5, 0.75), ops.LRN(depth_radius=1, alpha=1e-2)(x)


def normalised(x: Any) -> Any:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


@CASES.of(normal((3, 4)), expected=lambda x: [normalised(x)])
def layer_norm_of_mint(x: Any) -> Any:
    return mint.nn.functional.layer_norm(x, (4,))


@CASES.of(
    normal((3, 4), (4,)),
    expected=lambda x, g: [x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * g],
)
def root_mean_square(x: Any, g: Any) -> Any:
    return ops.rms_norm(x, g)[0]


def by_channel(x: Any) -> Any:
    axes = tuple(range(2, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


class OfMint(nn.Cell):
    """Groups of one channel each."""

    def construct(self, x: Any, g: Any) -> Any:
        return mint.nn.functional.group_norm(x, 3, g, g)


class Training(nn.Cell):
    """A batch normalisation that uses the batch's own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, use_batch_statistics=True)

    def construct(self, x: Any) -> Any:
        return self.norm(x)


def cases() -> Iterator[Case]:
    yield from CASES
    instance = ((nn.InstanceNorm1d, (2, 3, 4)), (nn.InstanceNorm2d, (2, 3, 4, 5)))
    for layer, shape in (*instance, (nn.InstanceNorm3d, (2, 3, 4, 5, 2))):
        yield Case(
            f"instance_{len(shape) - 2}d",
            functools.partial(layer, 3),
            normal(shape),
            expected=lambda x: [by_channel(x)],
        )
    yield Case(
        "group_of_mint",
        OfMint,
        normal((2, 3, 4, 5), (3,)),
        expected=lambda x, g: [by_channel(x) * g[:, None, None] + g[:, None, None]],
    )
    yield Case(
        "batch_2d",
        lambda: Together(nn.BatchNorm2d(3), nn.BatchNorm2d(3, eps=0.1, affine=False)),
        normal((2, 3, 4, 5)),
    )
    yield Case("batch_1d", lambda: nn.BatchNorm1d(5), normal((3, 5)))
    yield Case("batch_1d_of_sequences", lambda: nn.BatchNorm1d(5), normal((3, 5, 4)))
    yield Case("batch_3d", lambda: nn.BatchNorm3d(3), normal((2, 3, 2, 3, 2)))
    yield Case(
        "batch_of_open_batch",
        lambda: nn.BatchNorm2d(3),
        normal((2, 3, 4, 5)),
        shapes=[[None, 3, 4, 5]],
    )
    yield Case("batch_in_training", Training, normal((2, 3, 4, 5)), refused="in training mode")
    yield Case(
        "layer",
        lambda: Together(
            nn.LayerNorm((5,)),
            nn.LayerNorm((4, 5), begin_norm_axis=2, begin_params_axis=2, epsilon=1e-3),
            nn.LayerNorm((3, 4, 5), begin_norm_axis=1, begin_params_axis=1),
            nn.LayerNorm((5,), begin_norm_axis=2, begin_params_axis=3),
        ),
        normal((2, 3, 4, 5)),
    )
    yield Case(
        "layer_of_open_shapes",
        lambda: nn.LayerNorm((5,)),
        normal((2, 3, 5)),
        shapes=[[None, None, 5]],
    )
    yield Case(
        "group",
        lambda: Together(nn.GroupNorm(2, 6), nn.GroupNorm(3, 6, eps=0.1), nn.GroupNorm(6, 6)),
        normal((2, 6, 3, 4)),
    )
