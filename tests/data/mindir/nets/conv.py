"""Convolutions, and transposed ones."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from mindspore import Tensor, mint, nn, ops

from tests.data.mindir.nets.case import Case, normal


class Together(nn.Cell):
    """Several layers over one input."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.layers = nn.CellList(list(layers))

    def construct(self, x: Any) -> Any:
        found = []
        for layer in self.layers:
            found.append(layer(x))  # noqa: PERF401 - MindSpore parses this
        return tuple(found)


def same() -> Any:
    return Together(
        nn.Conv2d(3, 4, 3, stride=2, pad_mode="same", has_bias=True),
        nn.Conv2d(3, 4, (2, 5), stride=(3, 1), pad_mode="same"),
        nn.Conv2d(3, 2, 4, pad_mode="same", dilation=2),
    )


def valid() -> Any:
    return Together(
        nn.Conv2d(3, 4, 1, stride=2, pad_mode="valid"),
        nn.Conv2d(3, 4, (3, 2), pad_mode="valid", dilation=(2, 3), has_bias=True),
    )


def transposed() -> Any:
    return Together(
        nn.Conv2dTranspose(4, 3, 3, stride=2, pad_mode="same"),
        nn.Conv2dTranspose(4, 3, 2, stride=3, pad_mode="same", has_bias=True),
        nn.Conv2dTranspose(4, 2, (3, 4), stride=(1, 2), pad_mode="valid"),
        nn.Conv2dTranspose(4, 2, 2, stride=3, pad_mode="valid"),
        nn.Conv2dTranspose(4, 3, 4, stride=2, pad_mode="pad", padding=1, has_bias=True),
        nn.Conv2dTranspose(4, 6, 3, stride=2, pad_mode="pad", padding=(1, 0, 0, 1), group=2),
        nn.Conv2dTranspose(4, 2, 3, pad_mode="pad", padding=2, dilation=2),
        nn.Conv2dTranspose(4, 2, 3, stride=2, pad_mode="pad", padding=1, output_padding=1),
    )


class Functional(nn.Cell):
    """Weights as inputs."""

    def construct(self, x: Any, w: Any) -> Any:
        return ops.conv2d(x, w, None, 2, "pad", 1), ops.conv2d(x, w, pad_mode="same")


class OfMint(nn.Cell):
    """PyTorch's forms, which MindSpore's CPU cannot run; its own forms say what they give."""

    def construct(self, x: Any, w: Any, b: Any) -> Any:
        functional = mint.nn.functional
        turned = w.transpose(1, 0, 2, 3)
        return (
            functional.conv2d(x, w, b, 2, 1),
            functional.conv2d(x, w, None, 1, (1, 2), 2),
            functional.conv2d(x, w, b, 1, "same"),
            functional.conv_transpose2d(x, turned, b, 2, 1, 1),
        )


def of_mindspore(x: Any, w: Any, b: Any) -> list[Any]:
    """The same by MindSpore's own operators."""
    a, k, c = Tensor(x), Tensor(w), Tensor(b)
    return [
        ops.conv2d(a, k, c, 2, "pad", 1).asnumpy(),
        ops.conv2d(a, k, None, 1, "pad", (1, 2), 2).asnumpy(),
        ops.conv2d(a, k, c, 1, "same").asnumpy(),
        transposed_by_hand(x, w, b),
    ]


def transposed_by_hand(x: Any, w: Any, b: Any) -> Any:
    """Stride 2, pads of 1, one more at the end: each number of x spreads the kernel."""
    n, _, height, width = x.shape
    out = np.zeros((n, w.shape[0], 2 * height + 2, 2 * width + 2))
    for row, column in np.ndindex(height, width):
        spread = np.einsum("ni,oikl->nokl", x[:, :, row, column].astype(np.float64), w)
        out[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += spread
    return out[:, :, 1:-1, 1:-1] + b[:, None, None]


def cases() -> Iterator[Case]:
    yield Case(
        "conv2d_of_mint", OfMint, normal((2, 3, 7, 6), (4, 3, 3, 3), (4,)), expected=of_mindspore
    )
    yield Case("conv2d_same", same, normal((2, 3, 9, 8)))
    yield Case("conv2d_valid", valid, normal((2, 3, 9, 8)))
    yield Case("conv2d_same_of_open_batch", same, normal((2, 3, 9, 8)), shapes=[[None, 3, 9, 8]])
    yield Case(
        "conv2d_of_open_sizes", same, normal((1, 3, 9, 8)), shapes=[[None, 3, None, None]], runs=2
    )
    yield Case(
        "conv2d_asymmetric_pad_dilated_grouped",
        lambda: nn.Conv2d(
            4, 6, (3, 2), stride=(1, 2), pad_mode="pad", padding=(1, 2, 0, 3), dilation=2, group=2
        ),
        normal((1, 4, 11, 10)),
    )
    yield Case(
        "conv2d_depthwise",
        lambda: nn.Conv2d(4, 4, 3, pad_mode="pad", padding=1, group=4, has_bias=True),
        normal((2, 4, 6, 5)),
    )
    yield Case("conv2d_functional", Functional, normal((1, 2, 7, 6), (3, 2, 3, 3)))
    yield from _of_other_ranks()
    yield from _transposed()


def _of_other_ranks() -> Iterator[Case]:
    yield Case(
        "conv1d",
        lambda: Together(
            nn.Conv1d(3, 4, 3, stride=2, pad_mode="same", has_bias=True),
            nn.Conv1d(3, 4, 4, pad_mode="pad", padding=2, dilation=2),
            nn.Conv1d(3, 3, 2, pad_mode="valid", group=3),
        ),
        normal((2, 3, 11)),
    )
    yield Case(
        "conv3d",
        lambda: Together(
            nn.Conv3d(2, 3, 3, pad_mode="pad", padding=1, has_bias=True),
            nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), pad_mode="same"),
            nn.Conv3d(2, 3, 2, pad_mode="valid"),
        ),
        normal((1, 2, 4, 5, 6)),
    )


def _transposed() -> Iterator[Case]:
    yield Case("conv2d_transposed", transposed, normal((2, 4, 5, 4)))
    yield Case(
        "conv1d_transposed",
        lambda: Together(
            nn.Conv1dTranspose(3, 2, 3, stride=2, pad_mode="same"),
            nn.Conv1dTranspose(3, 2, 4, stride=2, pad_mode="pad", padding=1, has_bias=True),
        ),
        normal((2, 3, 7)),
    )
    yield Case(
        "conv3d_transposed",
        lambda: nn.Conv3dTranspose(2, 3, 3, stride=2, pad_mode="pad", padding=1, output_padding=1),
        normal((1, 2, 3, 4, 3)),
    )
    yield Case(
        "conv2d_transposed_of_open_batch",
        lambda: nn.Conv2dTranspose(2, 3, 4, stride=2, pad_mode="pad", padding=1),
        normal((2, 2, 5, 4)),
        shapes=[[None, 2, 5, 4]],
    )
