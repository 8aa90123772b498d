"""Plans and saved graphs: what is written is read back, what is hostile or new is refused, and the
same model compiles to the same bytes in every process."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.daemons import LENET
from tests.pairs import entry_named
from tests.versions import built
from tests.zoo import seeds
from weightd.backends.prepacked import graph
from weightd.backends.prepacked.core import plan_of
from weightd.backends.prepacked.graph import Buffer, Packed, SavedGraph
from weightd.backends.prepacked.plan import PLAN, SMALL, External, Piece, Plan, Range, whole_pages
from weightd.backends.version import MappedVersion
from weightd.errors import BadManifestError, CompileError
from weightd.ipc import protocol

ROOT = Path(__file__).parent.parent
PAGE = 4096
PLAIN: dict[str, Any] = {
    "pieces": [{"name": "a", "nbytes": 100, "is_read": True}],
    "externals": [{"name": "w", "raw": [0, 100], "packed": [[PAGE, 5]]}],
    "dummies": 0,
    "dummy_nbytes": 0,
    "is_swappable": True,
}


def changed(**changes: Any) -> bytes:
    return protocol.pack({**PLAIN, **changes})


def piece(nbytes: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "nbytes": nbytes, "is_read": True, **more}]


# --- the plan ----------------------------------------------------------------------------


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = Plan(
        pieces=(Piece("a", 5000, is_read=False), Piece("b", 1, is_read=True)),
        externals=(External("w", Range(3 * PAGE, 7), (Range(0, 5000),)),),
        dummies=3,
        dummy_nbytes=9000,
        is_swappable=False,
    )
    assert Plan.decode(plan.encode()) == plan
    assert Plan.decode(plan.encode()).encode() == plan.encode()


def test_pieces_lie_on_whole_pages_and_the_dummy_behind_them() -> None:
    plan = Plan((Piece("a", 5000, False), Piece("b", 1, True)), (), 3, 9000, True)
    assert plan.ranges == {"a": Range(0, 2 * PAGE), "b": Range(2 * PAGE, PAGE)}
    assert plan.dummy == Range(3 * PAGE, whole_pages(9000 + 3 * 64))
    lines = np.frombuffer(plan.dummy_lines(), np.float32).reshape(3, 16)
    assert len({line.tobytes() for line in lines}) == 3
    assert lines.all()


def test_a_plan_without_dummies_has_no_room_for_any() -> None:
    plan = Plan((Piece("a", 1, False),), (), 0, 0, True)
    assert plan.dummy == Range(PAGE, 0)
    assert plan.dummy_lines() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        protocol.pack([]),
        protocol.pack({}),
        changed(extra=1),
        changed(pieces=[{"name": "a", "nbytes": 100}]),
        changed(pieces=piece(100, where="/etc/passwd")),
        changed(pieces=piece("100")),
        changed(pieces=piece(1.5)),
        changed(externals=[{"name": "w", "raw": [0], "packed": []}]),
        changed(externals=[{"name": "w", "raw": ["0", 1], "packed": []}]),
        changed(externals={}),
        changed(is_swappable=1),
        changed(dummies=None),
    ],
)
def test_bytes_that_are_no_plan_are_refused(raw: bytes) -> None:
    with pytest.raises(BadManifestError, match="the plan of a version cannot be read"):
        Plan.decode(raw)


@pytest.mark.parametrize(
    "raw",
    [
        changed(pieces=piece(-1)),
        changed(pieces=piece(2**63 - 1)),
        changed(pieces=piece(2**50) * 4),
        changed(dummies=-1),
        changed(dummies=2**62),
        changed(dummy_nbytes=-1),
        changed(dummy_nbytes=2**63 - 1),
    ],
)
def test_sizes_that_cannot_be_are_refused(raw: bytes) -> None:
    with pytest.raises(BadManifestError, match="impossible sizes"):
        Plan.decode(raw)


def test_the_plan_of_these_tests_is_one() -> None:
    assert Plan.decode(changed()).pieces == (Piece("a", 100, is_read=True),)


# --- a version and its plan --------------------------------------------------------------


class Altered(MappedVersion):
    """A version whose compiled tensors are others."""

    def __init__(self, honest: MappedVersion, **changes: Any) -> None:
        super().__init__(honest.manifest, honest._data)
        self._changes = {name.replace("__", ":"): value for name, value in changes.items()}

    def compiled(self) -> dict[str, Any]:
        found = super().compiled() | self._changes
        return {name: value for name, value in found.items() if value is not None}


def test_a_version_that_lacks_a_piece_of_its_plan_or_the_plan_is_refused() -> None:
    with built(seeds(entry_named("mlp"))[0]) as version:
        mapped = version.map()
        assert {SMALL, PLAN} <= set(mapped.compiled())
        assert plan_of(mapped).pieces[-1].name == SMALL
        with pytest.raises(BadManifestError, match="no plan"):
            plan_of(Altered(mapped, weightd__plan=None))
        with pytest.raises(BadManifestError, match="lacks 'weightd:small'"):
            plan_of(Altered(mapped, weightd__small=None))
        with pytest.raises(BadManifestError, match="lacks 'weightd:small'"):
            plan_of(Altered(mapped, weightd__small=np.zeros(PAGE - 1, np.uint8)))


def test_a_plan_that_wants_a_piece_of_another_size_is_refused() -> None:
    with built(seeds(entry_named("mlp"))[0]) as version:
        mapped = version.map()
        plan = plan_of(mapped)
        first, *others = plan.pieces
        larger = msgspec.structs.replace(first, nbytes=first.nbytes + 1)
        hostile = msgspec.structs.replace(plan, pieces=(larger, *others)).encode()
        with pytest.raises(BadManifestError, match="of its own plan"):
            plan_of(Altered(mapped, weightd__plan=np.frombuffer(hostile, np.uint8)))


# --- what onnxruntime saved --------------------------------------------------------------


def test_a_description_of_packed_weights_is_read_as_it_was_written() -> None:
    for text in ("k+1|0;64;0|4096;5;", "key", "MatMul+1+f32+c0ffee|18446744073709;1;a,b"):
        assert graph._text(graph._parsed(text, "w")) == text
    assert graph._parsed("k|64;5;x", "w") == Packed("k", (Buffer(Range(64, 5), "x"),))


@pytest.mark.parametrize(
    "text", ["k|", "k|1;2", "k|1;2;3;4", "k|a;2;3", "k|1;b;3", "k|1.5;2;3", "k||1;2;3", "k|;;"]
)
def test_a_description_of_a_new_kind_is_refused_by_the_weights_name(text: str) -> None:
    with pytest.raises(CompileError, match=r"in a way that is new \('the weight'"):
        graph._parsed(text, "the weight")


def saved(**external: str) -> bytes:
    """A graph whose weight w has this external data."""
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in external.items():
        weight.external_data.add(key=key, value=value)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    raw: bytes = helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    ).SerializeToString()
    return raw


def nothing(nbytes: int, offset: int) -> bytes:
    raise AssertionError((nbytes, offset))


def test_entries_of_a_saved_graph_are_read_in_order() -> None:
    raw = saved(location="f", offset="4096", length="64", prepacked_1="b", prepacked_0="a|0;1;")
    (weight,) = SavedGraph(raw, nothing, {"w"}).weights
    assert (weight.name, weight.raw, weight.use) == ("w", Range(4096, 64), "MatMul:1")
    assert [entry.key for entry in weight.packed] == ["a", "b"]


def test_a_saved_graph_whose_sizes_contradict_each_other_is_refused() -> None:
    with pytest.raises(CompileError, match="saved 65 bytes for tensor 'w', which has 64"):
        SavedGraph(saved(location="f", length="65"), nothing, {"w"})


def test_what_is_placed_names_nothing_of_the_file_that_was_saved() -> None:
    raw = saved(
        location="/etc/passwd", offset="9", length="64", prepacked_0="k|1;2;3", checksum="z"
    )
    packed = {"w": (Packed("new", (Buffer(Range(8192, 2), "3"),)),)}
    placed = SavedGraph(raw, nothing, {"w"}).placed({"w": 4096}, packed)
    (weight,) = onnx.ModelProto.FromString(placed).graph.initializer
    assert {entry.key: entry.value for entry in weight.external_data} == {
        "location": "weights",
        "offset": "4096",
        "length": "64",
        "prepacked_0": "new|8192;2;3",
    }


# --- the same bytes everywhere -----------------------------------------------------------

COMPILE = """
import hashlib, sys
from pathlib import Path
from tests.versions import built
with built(Path(sys.argv[1]), engine="prepacked") as version:
    mapped = version.map()
    print(hashlib.sha256(mapped.graph() + mapped.compiled()["weightd:plan"].tobytes()).hexdigest())
"""


def test_a_model_compiles_to_the_same_graph_in_every_process() -> None:
    """Else no switch would be in place: a version of another graph needs a new session."""
    command = [sys.executable, "-c", COMPILE, str(LENET)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    digests = {process.communicate()[0].strip() for process in running}
    with built(LENET, engine="prepacked") as version:
        mapped = version.map()
        raw = mapped.graph() + mapped.compiled()[PLAN].tobytes()
    assert digests == {hashlib.sha256(raw).hexdigest()}
