"""Real files, damaged: every reader reads them, or refuses them by one typed error.

A damaged file may not crash or hang its reader, make it take memory without measure, or lead it out
of its folder. The examples are the same in each run; with the marker `stress` there are more.
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.daemons import FINAL, LENET
from tests.mindir import opened
from tests.test_onnx_file import external, in_folder
from weightd.errors import RefusedError

DATA = Path(__file__).parent / "data"
SEEDS = {
    "safetensors": FINAL,
    "onnx": LENET,
    "npz": DATA / "ckpt" / "dtypes.npz",
    "ckpt": DATA / "ckpt" / "dtypes.ckpt",
    "ckpt with CRC": DATA / "ckpt" / "crc.ckpt",
    "ckpt with texts": DATA / "ckpt" / "texts.ckpt",
    "ckpt of a network": DATA / "lenet5" / "lenet5.ckpt",
    "mindir": DATA / "lenet5" / "lenet5.mindir",
    "mindir with branches": DATA / "mindir" / "flow" / "if_nested.mindir",
    "mindir of open sizes": DATA / "mindir" / "sequence" / "gpt_of_open_length.mindir",
    "mindir of a recurrent net": DATA / "mindir" / "recurrent" / "tagger.mindir",
    "mindir in two parts": DATA / "split" / "net_graph.mindir",
}
ROOM_NBYTES = 64 * 2**20  # of address space, besides what the process has

# Places as parts of the file: anywhere, or near its beginning, where formats keep what matters.
place = st.one_of(st.floats(0, 1), st.floats(0, 1).map(lambda x: x**3))
byte = st.integers(0, 255)
damage = st.one_of(
    st.tuples(st.just("flip"), place, byte),
    st.tuples(st.just("cut"), place, byte),
    st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("remove"), place, st.integers(1, 40)),
    st.tuples(st.just("double"), place, st.integers(1, 200)),
    st.tuples(st.just("endless"), place, st.sampled_from([b"\xff" * 9 + b"\x01", b"\x80" * 12])),
    st.tuples(st.just("long"), place, st.sampled_from([b"\xff\xff\xff\xff\x07", b"\xff\xff\x03"])),
)
damages = st.lists(damage, min_size=1, max_size=4)


def damaged(raw: bytes, kind: str, where: float, what: object) -> bytes:
    at = min(int(where * len(raw)), max(len(raw) - 1, 0))
    match kind, what:
        case "flip", int(bits):
            return raw[:at] + bytes([raw[at] ^ (bits or 1)]) + raw[at + 1 :] if raw else raw
        case "cut", _:
            return raw[:at]
        case "insert", bytes(more):
            return raw[:at] + more + raw[at:]
        case "remove", int(count):
            return raw[:at] + raw[at + count :]
        case "double", int(count):
            return raw[:at] + raw[at : at + count] * 2 + raw[at + count :]
        case _, bytes(more):
            return raw[:at] + more + raw[at + len(more) :]
        case _:
            raise AssertionError(kind)


@contextmanager
def limited_memory() -> Iterator[None]:
    """No more address space than this; what needs more fails loudly."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_NBYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_all(path: Path, folder: Path | None = None) -> None:
    """Open a file and read every tensor; a refusal is as good."""
    with limited_memory(), contextlib.suppress(RefusedError), opened(path, folder=folder) as source:
        for spec in source.tensors.values():
            assert spec.nbytes <= ROOM_NBYTES
            source.read_into(spec.name, memoryview(bytearray(spec.nbytes)))


def check(folder: Path, seed: Path, changes: list[tuple[str, float, object]]) -> None:
    raw = seed.read_bytes()
    for change in changes:
        raw = damaged(raw, *change)
    path = folder / "damaged"
    path.write_bytes(raw)
    read_all(path, seed.parent)


quick = settings(
    max_examples=60,
    derandomize=True,
    deadline=5000,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("seed", SEEDS)
@quick
@given(changes=damages)
@example(changes=[])
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, seed: str, changes: list[tuple[str, float, object]]
) -> None:
    check(tmp_path, SEEDS[seed], changes)


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model with its weights in a file beside it."""
    return in_folder(tmp_path_factory.mktemp("seed"), external("w", "data/w.bin", offset=4))


@quick
@given(changes=damages)
@example(changes=[])
def test_a_damaged_graph_over_external_data_is_read_or_refused(
    tmp_path: Path, two_parts: Path, changes: list[tuple[str, float, object]]
) -> None:
    check(tmp_path, two_parts, changes)


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@settings(quick, max_examples=100)
@given(changes=damages)
def test_a_damaged_file_is_read_or_refused_many_times(
    tmp_path: Path, seed: str, changes: list[tuple[str, float, object]]
) -> None:
    check(tmp_path, SEEDS[seed], changes)


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_that_grow_one_by_one_are_refused_until_they_are_all_there(
    tmp_path: Path, seed: str
) -> None:
    raw = SEEDS[seed].read_bytes()
    for nbytes in {int(len(raw) * part / 40) for part in range(40)}:
        (tmp_path / "part").write_bytes(raw[:nbytes])
        read_all(tmp_path / "part", SEEDS[seed].parent)


def test_a_seed_is_read_without_damage() -> None:
    for path in SEEDS.values():
        with opened(path) as source:
            assert source.tensors or source.graph


def test_reading_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for seed in SEEDS.values():
        check(tmp_path, seed, [("cut", 0.5, 0)])
    assert set(os.listdir("/proc/self/fd")) == before
