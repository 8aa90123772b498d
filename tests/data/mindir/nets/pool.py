"""Pooling."""

from collections.abc import Iterator
from typing import Any

from mindspore import Tensor, mint, nn, ops

from tests.data.mindir.nets.case import Case, given, normal
from tests.data.mindir.nets.conv import Together
from tests.data.mindir.nets.function import Cases

CASES = Cases()
SQUARE = given([[[[float(8 * row + column) for column in range(8)] for row in range(8)]]])


def square(rng: Any) -> Any:
    return [array.astype("float32") for array in SQUARE(rng)]


@CASES.of(normal((2, 3, 8, 6)))
def adaptive_means(x: Any) -> Any:
    return (
        ops.adaptive_avg_pool2d(x, 1),
        ops.adaptive_avg_pool2d(x, (4, 3)),
        ops.adaptive_avg_pool2d(x, (3, 4)),
        ops.adaptive_avg_pool2d(x, (None, 2)),
        ops.adaptive_max_pool2d(x, (4, 2)),
        ops.adaptive_max_pool2d(x, 1),
    )


@CASES.of(normal((2, 3, 9, 6)), refused="are of unequal sizes")
def adaptive_maxima_of_unequal_windows(x: Any) -> Any:
    return ops.adaptive_max_pool2d(x, (4, 4))


@CASES.of(
    square, expected=lambda x: [x.reshape(1, 1, 4, 2, 4, 2).max((3, 5)), x[:, :, 1::2, 1::2] - 4.5]
)
def of_mint(x: Any) -> Any:
    pooled = mint.nn.functional.max_pool2d(x, 2)
    return pooled, mint.nn.functional.avg_pool2d(x, 2)


@CASES.of(
    normal((1, 2, 8, 9)),
    expected=lambda x: [
        nn.AvgPool2d(3, 2, pad_mode="pad", padding=1)(Tensor(x)).asnumpy(),
        nn.AvgPool2d(3, 2, pad_mode="pad", padding=1, count_include_pad=False)(Tensor(x)).asnumpy(),
        nn.MaxPool2d(3, 2, pad_mode="pad", padding=1, ceil_mode=True)(Tensor(x)).asnumpy(),
        ops.adaptive_avg_pool2d(Tensor(x), (3, 4)).asnumpy(),
    ],
)
def of_mint_with_pads(x: Any) -> Any:
    functional = mint.nn.functional
    return (
        functional.avg_pool2d(x, 3, 2, 1),
        functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        functional.adaptive_avg_pool2d(x, (3, 4)),
    )


@CASES.of(normal((2, 3, 9, 6)), refused="stood is not translated")
def places_of_maxima_are_refused(x: Any) -> Any:
    return ops.max_pool2d(x, 3, 2, return_indices=True)


def cases() -> Iterator[Case]:
    yield from CASES
    yield from _in_two_dimensions()
    yield from _in_others()


def _in_two_dimensions() -> Iterator[Case]:
    yield Case(
        "max",
        lambda: Together(
            nn.MaxPool2d(3, 2),
            nn.MaxPool2d((2, 3), (1, 2), pad_mode="same"),
            nn.MaxPool2d(3, 3, pad_mode="same"),
            nn.MaxPool2d(3, 2, pad_mode="pad", padding=1),
            nn.MaxPool2d(3, 2, pad_mode="pad", padding=1, dilation=2),
            nn.MaxPool2d(3, 2, pad_mode="pad", padding=1, ceil_mode=True),
            nn.MaxPool2d(2, 2, pad_mode="pad", ceil_mode=True),
        ),
        normal((2, 3, 9, 8)),
    )
    yield Case(
        "mean",
        lambda: Together(
            nn.AvgPool2d(3, 2),
            nn.AvgPool2d((2, 3), (1, 2), pad_mode="same"),
            nn.AvgPool2d(3, 3, pad_mode="same"),
            nn.AvgPool2d(3, 2, pad_mode="pad", padding=1),
            nn.AvgPool2d(3, 2, pad_mode="pad", padding=1, count_include_pad=False),
            nn.AvgPool2d(3, 2, pad_mode="pad", padding=1, divisor_override=5),
            nn.AvgPool2d(3, 2, pad_mode="pad", padding=1, ceil_mode=True),
        ),
        normal((2, 3, 9, 9)),
    )
    yield Case(
        "mean_with_ceil_and_without_pads",
        lambda: nn.AvgPool2d(
            3, 2, pad_mode="pad", padding=1, ceil_mode=True, count_include_pad=False
        ),
        normal((1, 2, 8, 8)),
    )
    yield Case(
        "mean_with_ceil_and_pads_is_refused",
        lambda: nn.AvgPool2d(3, 2, pad_mode="pad", padding=1, ceil_mode=True),
        normal((1, 2, 8, 8)),
        refused="its last windows are counted otherwise",
    )


def _in_others() -> Iterator[Case]:
    yield Case(
        "one_dimension",
        lambda: Together(
            nn.MaxPool1d(3, 2),
            nn.MaxPool1d(3, 2, pad_mode="same"),
            nn.MaxPool1d(3, 2, pad_mode="pad", padding=1),
            nn.AvgPool1d(3, 2),
            nn.AvgPool1d(3, 2, pad_mode="same"),
            nn.AvgPool1d(3, 2, pad_mode="pad", padding=1),
            nn.AdaptiveAvgPool1d(3),
            nn.AdaptiveMaxPool1d(3),
        ),
        normal((2, 3, 9)),
    )
    yield Case(
        "three_dimensions",
        lambda: Together(
            nn.MaxPool3d(2, 2),
            nn.MaxPool3d(3, 2, pad_mode="same"),
            nn.MaxPool3d(3, 2, pad_mode="pad", padding=1),
            nn.AvgPool3d(2, 2),
            nn.AvgPool3d(3, 2, pad_mode="pad", padding=1),
            nn.AdaptiveAvgPool3d((2, 3, 1)),
        ),
        normal((1, 2, 5, 6, 5)),
    )
    yield Case(
        "of_open_batch",
        lambda: Together(nn.MaxPool2d(2, 2), nn.AvgPool2d(3, 2, pad_mode="same")),
        normal((2, 3, 8, 8)),
        shapes=[[None, 3, 8, 8]],
    )
