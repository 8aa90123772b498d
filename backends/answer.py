"""The reference answer: what a private session says to inputs made up for the purpose. Whoever runs
a version compares what it says with that.

Inputs are made from the ports alone, so some graphs will not take them. A few are tried: small
whole numbers are valid as indices, lengths and masks more often than not.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from weightd.errors import AnswerError, DeadlineError, PredictError
from weightd.weights.arrays import Array, are_equal, numpy_dtype
from weightd.weights.entries import Port

Arrays = dict[str, Array]
Run = Callable[[Arrays], Arrays]

BOUND = 1e-4  # of the largest absolute value: where bit equality cannot be had
_SIZES = (1, 2, 8, 3, 16, 32, 64)  # of dimensions that the graph leaves open
_WHOLE_NUMBERS = (5, 2, 1)  # integers are drawn from as many
_MAX_NBYTES = 64 * 2**20  # of all inputs, and of all outputs
_FLOATING = "fV"  # numpy's kinds; V is what ml_dtypes has
_FEW = 3
_SOME = 4096
_TRIES = 4  # other inputs for an answer that says little


class Answer(NamedTuple):
    """Inputs and the outputs that they must give, by the ports' names. is_exact: to the bit; a
    graph that does not repeat itself is held to BOUND."""

    inputs: Arrays
    outputs: Arrays
    is_exact: bool = True


def ask(ports: tuple[Port, ...], run: Run) -> Answer:
    """The answer to the first inputs that the graph takes. DeadlineError when it does not end;
    PredictError when it takes none, or its answers prove nothing."""
    refusal: Exception | None = None
    for inputs in _inputs(ports):
        try:
            return _answer(inputs, run)
        except DeadlineError:
            raise
        except (PredictError, MemoryError) as error:
            refusal = refusal or error
    raise PredictError(f"none of the inputs that were tried will do: {refusal}")


def _answer(inputs: Arrays, run: Run) -> Answer:
    _check_size("input", inputs)
    outputs, again = _twice(run, inputs)
    _check_size("output", outputs)
    answer = Answer(inputs, outputs)
    if not _says_something(outputs):
        _check_varies(answer, run)
    if is_same(again, answer):
        return answer
    loose = answer._replace(is_exact=False)
    try:
        check(again, loose)
    except AnswerError as error:
        raise PredictError(f"it does not give the same answer twice: {error}") from error
    return loose


def _check_size(what: str, arrays: Arrays) -> None:
    """A version keeps its answer, and every worker compares with it."""
    nbytes = sum(array.nbytes for array in arrays.values())
    if nbytes > _MAX_NBYTES:
        raise PredictError(f"an {what} of {nbytes} bytes is too large to compare with")


def _says_something(outputs: Arrays) -> bool:
    """Whether some output has enough different numbers that other weights would change them."""
    return any(map(_is_varied, outputs.values()))


def _is_varied(output: Array) -> bool:
    if output.dtype.kind not in _FLOATING:
        return False
    some = output.reshape(-1)[:_SOME].astype(np.float64)
    return len(np.unique(some[np.isfinite(some)])) >= _FEW


def _check_varies(answer: Answer, run: Run) -> None:
    """PredictError when other inputs have the same answer: any weights might."""
    for seed in range(1, _TRIES + 1):
        if not is_same(run(_others(answer.inputs, seed)), answer):
            return
    raise PredictError("it has the same answer for all inputs that were tried")


def _others(inputs: Arrays, seed: int) -> Arrays:
    """Inputs like these: other numbers, whole ones from the same range."""
    rng = np.random.default_rng(seed)
    return {name: _other(array, rng) for name, array in inputs.items()}


def _other(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind in _FLOATING:
        return rng.standard_normal(array.shape).astype(array.dtype)
    if array.dtype.kind in "iu" and array.size:
        return rng.integers(array.min(), int(array.max()) + 1, array.shape).astype(array.dtype)
    return array


def check(outputs: Mapping[str, Array], answer: Answer, *, bound: float = BOUND) -> None:
    """AnswerError when outputs are not what they must be; it names the output and the distance.
    bound: for an answer that need not be exact."""
    for name, wanted in answer.outputs.items():
        found = outputs[name]
        if _is_equal(found, wanted) or (not answer.is_exact and _is_near(found, wanted, bound)):
            continue
        raise AnswerError(
            f"output {name!r} is not that of a private session: {_far(found, wanted)}"
        )


def is_same(outputs: Mapping[str, Array], answer: Answer) -> bool:
    """Whether outputs are the answer, to the bit."""
    return all(_is_equal(outputs[name], wanted) for name, wanted in answer.outputs.items())


def _twice(run: Run, inputs: Arrays) -> tuple[Arrays, Arrays]:
    """Both at once, which takes a machine with two cores no longer than one."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        again = executor.submit(run, inputs)
        return run(inputs), again.result()


def _inputs(ports: tuple[Port, ...]) -> Iterator[Arrays]:
    has_open = any(not isinstance(dim, int) for port in ports for dim in port.shape)
    has_whole = any(numpy_dtype(port.dtype).kind in "iu" for port in ports)
    for size in _SIZES if has_open else _SIZES[:1]:
        for limit in _WHOLE_NUMBERS if has_whole else _WHOLE_NUMBERS[:1]:
            rng = np.random.default_rng(0)
            yield {port.name: _input(port, size, limit, rng) for port in ports}


def _input(port: Port, size: int, limit: int, rng: np.random.Generator) -> Array:
    shape = tuple(dim if isinstance(dim, int) else size for dim in port.shape)
    dtype = numpy_dtype(port.dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        lowest = 1 if limit == 1 else 0  # 1 is the last try: a length, a count, an axis
        return rng.integers(lowest, lowest + limit, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _is_equal(found: Array, wanted: Array) -> bool:
    return (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and are_equal(
        _bytes_of(found), _bytes_of(wanted)
    )


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _is_near(found: Array, wanted: Array, bound: float) -> bool:
    return _is_comparable(found, wanted) and _distance(found, wanted) <= bound


def _is_comparable(found: Array, wanted: Array) -> bool:
    """Numbers that rounding can change; whole ones are equal or wrong."""
    return (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and (
        wanted.dtype.kind in _FLOATING
    )


def _distance(found: Array, wanted: Array) -> float:
    """The largest difference, as a part of the largest value."""
    if not wanted.size:
        return 0.0
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        differences = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        largest = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)
    return float(np.max(differences) / (largest or 1.0))


def _far(found: Array, wanted: Array) -> str:
    if (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and wanted.dtype.kind in "iub":
        return f"{np.count_nonzero(found != wanted)} of {wanted.size} numbers differ"
    if not _is_comparable(found, wanted):
        return f"{found.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}"
    return f"they differ by {_distance(found, wanted):.2g} of the largest value"
