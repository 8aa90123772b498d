"""writer.py: what is written, what is shared with the live version, in two steps."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from weightd.backends.base import Compiled
from weightd.backends.live import LiveVersion
from weightd.backends.raw import RawTensors
from weightd.backends.writer import Writer
from weightd.errors import InsufficientMemoryError
from weightd.ipc.job import Job, Staged
from weightd.ipc.segment import new_memfd, reopen_read_only
from weightd.weights.arrays import Array
from weightd.weights.entries import Port
from weightd.weights.file import OnChunk
from weightd.weights.manifest import HEADER_NBYTES, Manifest
from weightd.weights.safetensors import write_safetensors
from weightd.weights.source import Source, TensorSpec, open_source

KIB = 1024
RNG = np.random.default_rng(3)


def floats(*names: str, kib: int = 64) -> dict[str, Array]:
    return {name: RNG.random(kib * KIB // 4, np.float32) for name in names}


class Held:
    """A version as the daemon would hold it: read-only descriptors, in the manifest's order."""

    def __init__(self, fds: tuple[int, ...], staged: Staged) -> None:
        self.fds = fds
        self.staged = staged
        with LiveVersion(fds) as live:
            self.manifest = live.manifest
            places = {"graph": self.manifest.graph, "source_graph": self.manifest.source_graph}
            self.blobs = {k: bytes(live.bytes_of(v)) for k, v in places.items() if v is not None}
            entries = (
                *self.manifest.tensors,
                *self.manifest.compiled,
                *self.manifest.reference_inputs,
                *self.manifest.reference_outputs,
            )
            self.bytes = {entry.name: bytes(live.bytes_of(entry)) for entry in entries}
            self.in_use = {entry.name: entry.segment for entry in entries}

    @property
    def new_nbytes(self) -> int:
        return self.manifest.segments[0]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class Made(Compiled):
    """What an engine might have compiled."""

    def __init__(self, tensors: Mapping[str, Array], graph: bytes = b"compiled") -> None:
        specs = {name: TensorSpec(name, "float32", a.shape) for name, a in tensors.items()}
        super().__init__(graph, specs, {"cpu": "any"})
        self._arrays = tensors

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        target[:] = self._arrays[name].reshape(-1).view(np.uint8).data
        on_chunk(target)


class Bench:
    """Writes versions, one after the other, each following the last one."""

    def __init__(self, resources: ExitStack) -> None:
        self._resources = resources
        self._last: Held | None = None
        self._number = 0

    @contextmanager
    def writer(self, *, budget_nbytes: int | None = None) -> Iterator[tuple[Writer, int]]:
        fd = new_memfd(f"written {self._number}")
        try:
            with ExitStack() as open_:
                live = open_.enter_context(LiveVersion(self._last.fds)) if self._last else None
                yield open_.enter_context(Writer(job(fd, budget_nbytes), lambda *_: None, live)), fd
        finally:
            os.close(fd)

    def write(self, tensors: Mapping[str, Array], **parts: Any) -> Held:
        budget_nbytes = parts.pop("budget_nbytes", None)
        with source_of(tensors) as source, self.writer(budget_nbytes=budget_nbytes) as (writer, fd):
            unsealed = writer.fill(draft(), source=source, **parts)
            return self.keep(fd, writer.seal(unsealed))

    def keep(self, fd: int, staged: Staged) -> Held:
        fds = [reopen_read_only(fd)]
        if self._last is not None:
            fds += [os.dup(self._last.fds[number]) for number in staged.base_segments]
        self._last = Held(tuple(fds), staged)
        self._resources.callback(self._last.close)
        return self._last


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as resources:
        yield Bench(resources)


@contextmanager
def source_of(tensors: Mapping[str, Array]) -> Iterator[Source]:
    fd = write_safetensors(tensors, name="weights")
    try:
        with open_source(fd, file_name="weights") as source:
            yield source
    finally:
        os.close(fd)


def draft() -> Manifest:
    ports = Port("x", "float32", (None,)), Port("y", "float32", (None,))
    return Manifest(
        model="m",
        version=1,
        layout="compiled",
        segments=(HEADER_NBYTES,),
        tensors=(),
        inputs=ports[:1],
        outputs=ports[1:],
    )


def job(segment_fd: int, budget_nbytes: int | None) -> Job:
    return Job(
        model="m",
        version=1,
        file_name="weights",
        engine="plain",
        keep_tensors=False,
        file_fd=-1,
        folder_fd=None,
        segment_fd=segment_fd,
        base_fds=(),
        budget_nbytes=budget_nbytes,
        answer_limit_s=1.0,
        cpu_s=1,
    )


# --- what is written ---------------------------------------------------------------------


def test_every_part_comes_back_as_it_was(bench: Bench) -> None:
    weights, packed = floats("a", "b"), floats("a_packed", kib=3)
    reference = ({"x": np.arange(5, dtype=np.float32)}, {"y": np.array([[1, 2]], np.float32)})
    with source_of(weights) as source:
        raw = RawTensors(source, lambda *_: None)
    made = Made(packed | {"b": weights["b"]})
    held = bench.write(weights, graph=b"source", raw=raw, compiled=made, reference=reference)
    for name, array in (packed | {"b": weights["b"]} | reference[0] | reference[1]).items():
        assert held.bytes[name] == array.tobytes()
    assert held.blobs == {"source_graph": b"source", "graph": b"compiled"}
    assert [entry.name for entry in held.manifest.tensors] == ["b"]  # which the engine left alone
    assert held.manifest.reference_outputs[0].shape == (1, 2)
    assert (held.staged.nbytes, held.staged.base_segments) == (held.manifest.segments[0], ())


def test_a_version_can_be_discarded_and_another_written_in_its_place(bench: Bench) -> None:
    weights = floats("a", kib=400)
    with source_of(weights) as source, bench.writer() as (writer, fd):
        first = writer.fill(draft(), source=source, reference=({}, {"y": floats("y")["y"]}))
        assert first.segments[0].data[-4:] == memoryview(first.segments[0].data[-4:].tobytes())
        writer.discard(first)
        assert os.fstat(fd).st_size == 0
        held = bench.keep(fd, writer.seal(writer.fill(draft(), source=source), {"note": "second"}))
    assert held.bytes == {"a": weights["a"].tobytes()}
    assert held.manifest.stamp == {"engine": "", "note": "second"}


# --- what is shared ----------------------------------------------------------------------


def test_what_did_not_change_is_pointed_to_and_what_did_is_written(bench: Bench) -> None:
    weights = floats(*"abcdefgh")
    first = bench.write(weights)
    weights |= floats("d")
    second = bench.write(weights)
    assert second.bytes == {name: array.tobytes() for name, array in weights.items()}
    assert second.in_use == dict.fromkeys("abcdefgh", 1) | {"d": 0}
    assert second.staged.base_segments == (0,)
    assert second.manifest.segments[1:] == (first.new_nbytes,)
    assert second.new_nbytes < first.new_nbytes / 6
    digests = {entry.name: entry.digest for entry in first.manifest.tensors}
    assert {e.name for e in second.manifest.tensors if e.digest != digests[e.name]} == {"d"}


@pytest.mark.parametrize("where", [0, 1, 500_000, -1])
def test_one_byte_that_differs_is_found_wherever_it_is(bench: Bench, where: int) -> None:
    weights = {"w": RNG.integers(0, 255, 20 * 2**20 + 3, np.uint8)}  # more than one piece
    bench.write(weights)
    weights["w"][where] ^= 1
    second = bench.write(weights)
    assert second.bytes["w"] == weights["w"].tobytes()
    assert second.in_use["w"] == 0
    weights["w"][where] ^= 1
    assert bench.write(weights).manifest.tensors[0].digest != second.manifest.tensors[0].digest


def test_equal_bytes_of_another_name_shape_or_dtype_are_not_shared(bench: Bench) -> None:
    weights = floats(*"abcdefijk")
    bench.write(weights)
    again = {
        **{name: weights[name] for name in "abcijk"},
        "d": weights["d"].reshape(2, -1),
        "e": weights["e"].view(np.int32),
        "g": weights["f"],
    }
    assert bench.write(again).in_use == dict.fromkeys("abcijk", 1) | dict.fromkeys("deg", 0)


def test_an_old_segment_of_which_less_than_half_is_used_is_copied_out_of(bench: Bench) -> None:
    weights = floats(*"abcdefgh")
    bench.write(weights)
    weights |= floats(*"abcde")
    second = bench.write(weights)
    assert second.staged.base_segments == ()
    assert second.bytes == {name: array.tobytes() for name, array in weights.items()}


def test_compiled_tensors_graphs_and_the_reference_answer_are_shared_too(bench: Bench) -> None:
    weights, packed = floats("a"), floats("p", "q", "r")
    reference = {"x": np.ones(4096, np.float32)}, {"y": np.ones(4096, np.float32)}
    source, compiled = b"g" * 5000, b"c" * 6000
    for made in (packed, packed | floats("q")):
        held = bench.write(
            weights, graph=source, compiled=Made(made, compiled), reference=reference
        )
        assert {name: held.bytes[name] for name in made} == {
            name: array.tobytes() for name, array in made.items()
        }
        assert held.blobs == {"source_graph": source, "graph": compiled}
    assert held.in_use == {"p": 1, "q": 0, "r": 1, "x": 1, "y": 1}
    assert held.new_nbytes < 100 * KIB
    blobs = held.manifest.graph, held.manifest.source_graph
    assert [blob.segment for blob in blobs if blob] == [1, 1]


def test_source_tensors_that_the_optimiser_left_alone_are_found_in_older_segments(
    bench: Bench,
) -> None:
    weights = floats("a", "b", "c")
    for changed in ({}, floats("a")):
        weights |= changed
        with source_of(weights) as source:
            raw = RawTensors(source, lambda *_: None)
        held = bench.write(weights, graph=b"g", raw=raw, compiled=Made(weights))
    assert [(e.name, e.segment) for e in held.manifest.tensors] == [("a", 0), ("b", 1), ("c", 1)]


def test_a_hundred_small_updates_stay_right_bounded_and_within_sixteen_segments(
    bench: Bench,
) -> None:
    weights = floats(*(f"t{n}" for n in range(20)), kib=16)
    whole = bench.write(weights).new_nbytes
    for n in range(100):
        weights |= floats(f"t{7 * n % 20}", kib=16)
        held = bench.write(weights)
        assert len(held.fds) == len(held.manifest.segments) <= 16
        assert sum(held.manifest.segments) <= 2.3 * whole  # small ones: header, manifest, padding
    assert held.bytes == {name: array.tobytes() for name, array in weights.items()}


def test_the_budget_is_for_what_is_new(bench: Bench) -> None:
    weights = floats(*"abcdefgh")
    bench.write(weights)
    weights |= floats("h")
    assert bench.write(weights, budget_nbytes=100 * KIB).staged.base_segments == (0,)
    with pytest.raises(InsufficientMemoryError, match="memory budget of the daemon"):
        bench.write(floats(*"abcdefgh"), budget_nbytes=100 * KIB)
