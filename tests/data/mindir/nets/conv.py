"""Convolutions, and transposed ones."""

from collections.abc import Iterator

from mindspore import nn

from tests.data.mindir.nets.case import Case, normal


def cases() -> Iterator[Case]:
    yield Case(
        "conv2d_same_stride2",
        lambda: nn.Conv2d(3, 4, 3, stride=2, pad_mode="same", has_bias=True),
        normal((2, 3, 9, 8)),
    )
    yield Case(
        "conv2d_asymmetric_pad_dilated_grouped",
        lambda: nn.Conv2d(
            4, 6, (3, 2), stride=(1, 2), pad_mode="pad", padding=(1, 2, 0, 3), dilation=2, group=2
        ),
        normal((1, 4, 11, 10)),
    )
