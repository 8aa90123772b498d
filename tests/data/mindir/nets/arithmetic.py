"""Arithmetic and dtypes."""

from collections.abc import Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from tests.data.mindir.nets.case import Case, both, given, normal, uniform, whole
from tests.data.mindir.nets.function import Cases

CASES = Cases()
WHOLE = given([[-7, -3, 8], [7, 3, -8]], [[2, -2, 3], [-4, 4, -3]])


def small(dtype: str) -> Any:
    return lambda rng: [array.astype(dtype) for array in WHOLE(rng)]


@CASES.of(normal((2, 3), (2, 3)))
def four_operations(x: Any, y: Any) -> Any:
    return x + y, x - y, x * y, x / y, ops.div(x, y), ops.DivNoNan()(x, y), ops.true_divide(x, y)


@CASES.of(normal((2, 1, 3), (4, 1)))
def broadcasting(x: Any, y: Any) -> Any:
    return (
        x + y,
        y - x,
        ops.maximum(x, y),
        ops.minimum(x, y),
        x * y.sum(),
        ops.SquaredDifference()(x, y),
    )


@CASES.of(normal((2, 3)))
def with_python_numbers(x: Any) -> Any:
    return x + 1, 2 - x, x * 3, x * True, x / 2, 1 / x, x**2, 2**x, -x, x + 1.5, x // 2, x % 2


@CASES.of(small("int32"))
def whole_numbers(x: Any, y: Any) -> Any:
    return (
        x + y,
        x * y,
        x // y,
        x % y,
        x / y,
        -x,
        ops.abs(x),
        ops.sign(x),
        x * 2.5,
        x + 1,
        x / 2,
        x // 3,
        x % 3,
        x**2,
        ops.trunc(x),
        ops.square(x),
    )


@CASES.of(small("int64"))
def long_numbers(x: Any, y: Any) -> Any:
    return (
        x + y,
        x - y,
        x * y,
        x // y,
        x % y,
        ops.maximum(x, y),
        ops.floor_div(x, y),
        ops.fmod(x, y),
    )


@CASES.of(given([[100, -100, 5]], [[100, 29, -6]]))
def narrow_numbers_wrap_around(x: Any, y: Any) -> Any:
    a, b = x.astype(ms.int8), y.astype(ms.int8)
    c, d = x.astype(ms.uint8), y.astype(ms.uint8)
    e, f = x.astype(ms.int16), y.astype(ms.int16)
    return a + b, a * b, a - b, c + d, c * d, e * f


@CASES.of(normal((2, 3)))
def casts(x: Any) -> Any:
    y = x * 5
    return (
        y.astype(ms.int32),
        y.astype(ms.int64),
        y.astype(ms.float16),
        y.astype(ms.float64),
        y.astype(ms.bool_),
        y.astype(ms.int8).astype(ms.float32),
        (y > 0).astype(ms.float32),
        (y > 0).astype(ms.int32),
        ops.cast(y, ms.uint8).astype(ms.int32) * 0,
    )


@CASES.of(both(normal((2, 3)), whole((2, 3)), normal((2, 3), dtype="float16")))
def promotion(x: Any, n: Any, h: Any) -> Any:
    return x + n, n * h, x - h, n.astype(ms.int64) + n, (n > 0) + n, (x > 0) * x


@CASES.of(given([-2.5, -1.5, -0.5, -0.2, 0.5, 1.5, 2.5, 2.7]))
def rounding(x: Any) -> Any:
    y = x.astype(ms.float32)
    return (
        ops.round(y),
        ops.Rint()(y),
        ops.floor(y),
        ops.ceil(y),
        ops.trunc(y),
        ops.frac(y),
        ops.sign(y),
    )


@CASES.of(uniform((2, 3)))
def roots_and_logs(x: Any) -> Any:
    return (
        ops.sqrt(x),
        ops.rsqrt(x),
        ops.square(x),
        ops.exp(x),
        ops.log(x),
        ops.log2(x),
        ops.log10(x),
        ops.reciprocal(x),
        ops.erf(x),
        ops.erfc(x),
    )


@CASES.of(uniform((2, 3), low=-0.5, high=2.0))
def one_more_and_one_less(x: Any) -> Any:
    return ops.log1p(x), ops.expm1(x)


@CASES.of(uniform((2, 3), low=-0.9, high=0.9))
def trigonometry(x: Any) -> Any:
    return (
        ops.sin(x),
        ops.cos(x),
        ops.tan(x),
        ops.asin(x),
        ops.acos(x),
        ops.atan(x),
        ops.sinh(x),
        ops.cosh(x),
        ops.asinh(x),
        ops.acosh(x + 2),
        ops.atanh(x),
    )


@CASES.of(
    uniform((2, 3), low=-0.9, high=0.9),
    expected=lambda x: [np.arcsin(x), np.arccos(x), np.arctan(x)],
)
def trigonometry_of_mint(x: Any) -> Any:
    return mint.asin(x), mint.acos(x), mint.atan(x)


@CASES.of(whole((2, 4), low=0, high=99), expected=lambda x: [~x])
def flipped_bits(x: Any) -> Any:
    return mint.bitwise_not(x)


@CASES.of(given([1.0, 1.0, -1.0, -1.0, 0.0, 2.0, -2.0], [1.0, -1.0, 1.0, -1.0, -3.0, 0.0, 0.0]))
def angles(y: Any, x: Any) -> Any:
    return ops.atan2(y.astype(ms.float32), x.astype(ms.float32))


@CASES.of(given([5.5, -5.5, 5.5, -5.5, 4.0, -4.0], [2.0, 2.0, -2.0, -2.0, 2.0, 2.0]))
def remainders(x: Any, y: Any) -> Any:
    a, b = x.astype(ms.float32), y.astype(ms.float32)
    return (
        ops.floor_mod(a, b),
        ops.fmod(a, b),
        ops.remainder(a, b),
        ops.floor_div(a, b),
        a % 3,
        ops.trunc(a / b),
        ops.truncate_div(a, b),
        ops.truncate_mod(a, b),
        mint.remainder(a, b),
        mint.div(a, b, rounding_mode="floor"),
        mint.div(a, b, rounding_mode="trunc"),
        mint.floor_divide(a, b),
    )


@CASES.of(normal((2, 3), (2, 3), (2, 3)))
def fused(x: Any, y: Any, z: Any) -> Any:
    return (
        ops.addcmul(x, y, z, 0.5),
        ops.addcdiv(x, y, z, 2.0),
        ops.lerp(x, y, 0.3),
        ops.addn([x, y, z]),
        mint.add(x, y, alpha=0.5),
        mint.sub(x, y, alpha=2),
    )


@CASES.of(normal((2, 3), (3,)))
def clamps(x: Any, y: Any) -> Any:
    return (
        ops.clip_by_value(x, -0.5, 0.5),
        ops.clamp(x, min=0.1),
        ops.clamp(x, max=y),
        mint.clamp(x, -0.2, 0.3),
        ops.clip(x, 0.0, 1.0),
    )


@CASES.of(given([0.0, 0.0, 2.0, 3.0], [0.0, 5.0, 4.0, 1.0]))
def zero_times_anything(x: Any, y: Any) -> Any:
    a, b = x.astype(ms.float32), y.astype(ms.float32)
    return ops.xlogy(a, b), ops.xdivy(a, b), ops.DivNoNan()(b, a)


@CASES.of(whole((2, 4), (2, 4), low=0, high=99))
def bits(x: Any, y: Any) -> Any:
    return ops.bitwise_and(x, y), ops.bitwise_or(x, y), ops.bitwise_xor(x, y)


@CASES.of(given([1.0, float("nan"), float("inf"), -float("inf")]))
def what_is_finite(x: Any) -> Any:
    y = x.astype(ms.float32)
    return ops.isnan(y), ops.isinf(y), ops.isfinite(y)


@CASES.of(normal((), (1,)))
def without_dimensions(x: Any, y: Any) -> Any:
    return x + y, x * 2, ops.exp(x), x > 0, ops.abs(x) ** 0.5


@CASES.of(normal((2, 3), (2, 3), dtype="float64"))
def double_precision(x: Any, y: Any) -> Any:
    return x + y, x * y, x / y, ops.exp(x), ops.sqrt(ops.abs(x)), x**2, ops.tanh(y)


@CASES.of(normal((2, 3), (2, 3), dtype="float16"))
def half_precision(x: Any, y: Any) -> Any:
    return x + y, x * y, x / y, ops.exp(x), ops.abs(x), x * 2, x > y


def cases() -> Iterator[Case]:
    yield from CASES
