"""What puts elements around others, and windows cut from them."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from tests.data.mindir.nets.case import Arrays, Case, normal, whole
from tests.data.mindir.nets.dynamic import growing
from tests.data.mindir.nets.function import Cases

CASES = Cases()
MIRRORED = ms.Tensor([[0, 0], [1, 2], [3, 0]])


@CASES.of(normal((2, 3, 4)))
def around(x: Any) -> Any:
    return (
        ops.pad(x, (2, 1), mode="circular"),
        ops.pad(x, (0, 4), mode="circular"),
        ops.MirrorPad("SYMMETRIC")(x, MIRRORED),
        ops.MirrorPad("REFLECT")(x, MIRRORED),
    )


@CASES.of(whole((2, 3, 4), dtype="int8"))
def around_small_numbers(x: Any) -> Any:
    return ops.MirrorPad("SYMMETRIC")(x, MIRRORED), ops.pad(x, (1, -1)), ops.pad(x > 0, (1, 1))


@CASES.of(growing((2, -3, -4)), shapes=[[2, None, None]], runs=2)
def to_a_multiple(x: Any) -> Any:
    """Pads that are computed."""
    return (
        ops.pad(x, (0, 1, 0, 8 - x.shape[1] % 8), "constant", 7.0),
        ops.pad(x, (0, x.shape[1] - 2)),
        ops.pad(x, (1, 1), mode="reflect"),
        ops.pad(x, (0, 2), mode="replicate"),
    )


@CASES.of(normal((2, 1)), refused="are of more elements than there are")
def more_than_around_is_refused(x: Any) -> Any:
    return ops.pad(x, (2, 1), mode="circular")


@CASES.of(growing((-1, 3, 5, 6)), shapes=[[None, 3, 5, 6]], runs=2)
def windows(x: Any) -> Any:
    return (
        ops.unfold(x, (2, 3)),
        ops.unfold(x, 2, dilation=2, padding=1, stride=2),
        ops.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
    )


def _columns(x: Any) -> Arrays:
    """mint's unfold, for which MindSpore has no kernel on a CPU."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    cuts = [
        padded[:, :, row : row + 5 : 2, column : column + 5] for row in (0, 1) for column in (0, 1)
    ]
    yield np.stack(cuts, 2).reshape(2, 12, 15)


@CASES.of(normal((2, 3, 5, 6)), expected=_columns)
def windows_as_columns(x: Any) -> Any:
    return mint.nn.functional.unfold(x, 2, padding=(1, 0), stride=(2, 1))


def cases() -> Iterator[Case]:
    yield from CASES
