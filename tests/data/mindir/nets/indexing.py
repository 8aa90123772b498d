"""What takes elements by index, and puts them there."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, nn, ops

from tests.data.mindir.nets.case import Case, both, given, normal, whole
from tests.data.mindir.nets.function import Cases

CASES = Cases()


@CASES.of(normal((4, 5, 6)))
def slices(x: Any) -> Any:
    return (
        x[1],
        x[-1],
        x[1:3],
        x[:, 1:-1],
        x[..., 0],
        x[:, None, 2],
        x[::2, 1::3],
        x[-2:, :, 1:6:2],
        x[0, 1:3, ..., None],
        x[3:0:-1],
        x[:, -1:, :-2],
    )


@CASES.of(normal((4, 5)), refused="runs backwards from an open end")
def slice_from_an_open_end_is_refused(x: Any) -> Any:
    return x[:, ::-1]


@CASES.of(normal((3, 4, 5)))
def slices_by_masks(x: Any) -> Any:
    """The masks of the primitive, in which Python's brackets have no part."""
    return (
        ops.StridedSlice(begin_mask=3, shrink_axis_mask=1)(x, (2, -1), (4, -1), (3, 1)),
        ops.StridedSlice(begin_mask=1, end_mask=1, shrink_axis_mask=1)(x, (1,), (-1,), (2,)),
        ops.StridedSlice(ellipsis_mask=2)(x, (1, 0), (3, 0), (1, 1)),
        ops.StridedSlice(new_axis_mask=3)(x, (0, 0), (1, 1), (1, 1)),
        ops.StridedSlice()(x, (2, 3, -1), (-3, 0, 2), (-1, -2, -2)),
    )


@CASES.of(normal((3, 4, 5)), refused="its ellipsis_mask is not translated")
def ellipsis_mask_is_refused(x: Any) -> Any:
    return ops.StridedSlice(ellipsis_mask=1)(x, (0, 1), (0, 3), (1, 2))


@CASES.of(normal((3, 4, 5)), refused="its new_axis_mask is not translated")
def new_axis_mask_is_refused(x: Any) -> Any:
    return ops.StridedSlice(new_axis_mask=1)(x, (0, 0), (1, 3), (1, 2))


@CASES.of(normal((3, 4)), refused="two of its masks contradict each other")
def overlapping_masks_are_refused(x: Any) -> Any:
    return ops.StridedSlice(ellipsis_mask=1, shrink_axis_mask=1)(x, (1,), (2,), (2,))


@CASES.of(normal((3, 4, 5)), refused="runs backwards over more than the 3 elements of axis 0")
def slice_backwards_from_outside_is_refused(x: Any) -> Any:
    return x[5:-2:-2]


@CASES.of(normal((3, 4)), refused="runs backwards over more than the 3 elements of axis 0")
def slice_backwards_to_outside_is_refused(x: Any) -> Any:
    return ops.strided_slice(x, (2, 3), (-4, 0), (-1, -2))


@CASES.of(both(normal((3, 4)), given([[7, 0, -2], [1, 2, 3]])))
def looked_up_outside(x: Any, i: Any) -> Any:
    """Rows that a table has not are zeros."""
    n = i.astype(ms.int32)
    look_up = ops.EmbeddingLookup()
    return look_up(x, n, 0), look_up(x, n, 2), look_up(x[:, 0], n, -1)


@CASES.of(both(normal((4, 5)), given([0, 3, -1, 2])))
def by_index(x: Any, i: Any) -> Any:
    n = i.astype(ms.int32)
    return (
        ops.gather(x, n, 0),
        ops.gather(x, n, 1),
        x[n],
        x[:, ops.abs(n)],
        ops.index_select(x, 0, ops.abs(n)),
        ops.gather(x, n.reshape(2, 2), 1),
    )


@CASES.of(both(normal((3, 4)), given([[0, 3], [1, 1], [2, 0]])))
def along_an_axis(x: Any, i: Any) -> Any:
    n = i.astype(ms.int64)
    return ops.gather_elements(x, 1, n), ops.gather_nd(x, ops.clip(n, 0, 2)), mint.gather(x, 1, n)


@CASES.of(both(normal((4, 3)), given([[0], [2]]), normal((2, 3))))
def scattered(x: Any, i: Any, u: Any) -> Any:
    n = i.astype(ms.int32)
    return (
        ops.tensor_scatter_add(x, n, u),
        ops.scatter_nd(n, u, (4, 3)),
        ops.TensorScatterUpdate()(x, n, u),
    )


@CASES.of(both(normal((3, 4), dtype="float16"), whole((3, 4), dtype="int8")))
def scattered_dtypes(x: Any, y: Any) -> Any:
    n = ms.Tensor([[0], [0], [2]], ms.int32)
    return (
        *(ops.tensor_scatter_add(z, n, z) for z in (x, y)),
        ops.tensor_scatter_max(x, n[1:], x[:2]),
        ops.scatter_nd(n, x, (4, 4)),
    )


@CASES.of(both(normal((3, 4)), given([[0, 3], [1, 1]]), normal((2, 2))))
def scattered_along_an_axis(x: Any, i: Any, u: Any) -> Any:
    return ops.tensor_scatter_elements(x, i.astype(ms.int64), u, 1)


@CASES.of(normal((5, 6)))
def parts(x: Any) -> Any:
    return (
        ops.slice(x, (1, 2), (3, 2)),
        ops.narrow(x, 1, 2, 3),
        ops.strided_slice(x, (0, 1), (4, 6), (2, 3)),
    )


@CASES.of(normal((3, 4)))
def by_mask(x: Any) -> Any:
    return ops.masked_select(x, x > 0), ops.nonzero(x > 0)


@CASES.of(whole((3, 4), low=-1, high=2, dtype="int64"))
def not_zero(x: Any) -> Any:
    dtypes = (ms.float64, ms.float16, ms.int8, ms.uint8, ms.int64)
    return tuple(ops.nonzero(x.astype(dtype)) for dtype in dtypes)


class Tables(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Embedding(7, 4)
        self.two = nn.Embedding(7, 3, padding_idx=0)
        self.three = nn.EmbeddingLookup(7, 2)

    def construct(self, ids: Any) -> Any:
        return self.one(ids), self.two(ids), self.three(ids), self.one(ids[:, 0])


class SetItem(nn.Cell):
    """Written into what the network made itself."""

    def construct(self, x: Any) -> Any:
        y = x * 1
        y[0] = 5.0
        y[:, 1] = x[:, 0]
        y[1:, 2:] = 0
        return y


class Shifted(nn.Cell):
    """Windows as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = ms.Parameter(ms.Tensor(np.ones((9, 2), np.float32)), name="bias")
        self.index = ms.Tensor(np.arange(16).reshape(4, 4) % 9, ms.int32)

    def construct(self, x: Any) -> Any:
        shifted = ops.concat((x[:, 1:], x[:, :1]), 1)
        windows = shifted.reshape(1, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 3)
        table = self.bias[self.index.reshape(-1)].reshape(4, 4, 2).transpose(2, 0, 1)
        return windows, table


def cases() -> Iterator[Case]:
    yield from CASES
    yield Case("tables", Tables, whole((2, 3), low=0, high=7))
    yield Case("set_item", SetItem, normal((3, 4)))
    yield Case("shifted_windows", Shifted, normal((1, 4, 4, 3)))
