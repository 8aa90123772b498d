"""Resizing and upsampling."""

from collections.abc import Iterator
from typing import Any

from mindspore import nn, ops

from tests.data.mindir.nets.case import Case, both, normal, uniform
from tests.data.mindir.nets.conv import Together
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((1, 2, 5, 4)))
def bilinear(x: Any) -> Any:
    return (
        ops.interpolate(x, size=(7, 9), mode="bilinear"),
        ops.interpolate(x, size=(3, 8), mode="bilinear", align_corners=True),
        ops.interpolate(x, size=(10, 8), mode="bilinear", align_corners=False),
        ops.interpolate(x, size=(2, 3), mode="bilinear", align_corners=False),
    )


@CASES.of(normal((1, 2, 5, 4)))
def nearest(x: Any) -> Any:
    return (
        ops.interpolate(x, size=(10, 8), mode="nearest"),
        ops.interpolate(x, size=(7, 9), mode="nearest"),
        ops.interpolate(x, size=(3, 2), mode="nearest"),
        ops.interpolate(x, size=(7, 6), mode="nearest-exact"),
        ops.interpolate(x, size=(3, 2), mode="area"),
        ops.ResizeNearestNeighbor((7, 6), align_corners=True)(x),
        ops.ResizeNearestNeighbor((7, 6))(x),
    )


@CASES.of(normal((1, 2, 5, 4)))
def bicubic(x: Any) -> Any:
    return (
        ops.interpolate(x, size=(9, 7), mode="bicubic", align_corners=True),
        ops.interpolate(x, size=(10, 8), mode="bicubic"),
    )


@CASES.of(normal((1, 2, 5)))
def linear(x: Any) -> Any:
    return (
        ops.interpolate(x, size=9, mode="linear"),
        ops.interpolate(x, size=9, mode="linear", align_corners=True),
        ops.interpolate(x, size=9, mode="nearest"),
    )


@CASES.of(normal((1, 8, 3, 4)))
def channels_to_space(x: Any) -> Any:
    return (
        ops.pixel_shuffle(x, 2),
        ops.DepthToSpace(2)(x),
        ops.SpaceToDepth(2)(ops.DepthToSpace(2)(x)),
    )


@CASES.of(both(normal((1, 2, 5, 4)), uniform((1, 3, 3, 2), low=-1.2, high=1.2)))
def sampled_grid(x: Any, grid: Any) -> Any:
    return (
        ops.grid_sample(x, grid),
        ops.grid_sample(x, grid, align_corners=True),
        ops.grid_sample(x, grid, padding_mode="border"),
        ops.grid_sample(x, grid, mode="nearest"),
        ops.grid_sample(x, grid, padding_mode="reflection"),
        ops.grid_sample(x, grid, padding_mode="reflection", align_corners=True),
    )


def cases() -> Iterator[Case]:
    yield from CASES
    yield Case(
        "layers",
        lambda: Together(
            nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest", recompute_scale_factor=True),
            nn.Upsample(size=(8, 9), mode="bilinear"),
            nn.PixelShuffle(2),
        ),
        normal((1, 4, 3, 4)),
    )
