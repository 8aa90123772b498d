"""What scrubbers find in real segments, and what follows from it."""

from collections.abc import Iterator
from contextlib import nullcontext

import msgspec
import pytest
from xxhash import xxh3_128_digest

from tests.scrub import FAST, KIB, House, plain, running_house, sealed
from weightd.backends.live import LiveVersion
from weightd.daemon.damage import mark
from weightd.daemon.policy import Guest
from weightd.daemon.scrubber import MAX_FLAWS
from weightd.daemon.staging import Filled
from weightd.errors import DamagedError
from weightd.ipc.peer import Key
from weightd.ipc.scrub import MAX_TARGETS
from weightd.weights.entries import Blob, Port, TensorEntry
from weightd.weights.manifest import HEADER_NBYTES, Manifest
from weightd.weights.pieces import pieces_of


@pytest.fixture
def house() -> Iterator[House]:
    with running_house(FAST) as house:
        yield house


# --- what is compared ---------------------------------------------------------------------


def test_bytes_that_are_as_they_were_published_are_sound(house: House) -> None:
    house.hold(plain(count=5, nbytes=300 * KIB))
    [found] = house.verify("m")
    assert (found.pieces, found.nbytes, found.verdict) == (5, 5 * 300 * KIB, "sound")
    assert house.scrubbing.scrubbed_nbytes == 5 * 300 * KIB
    assert house.scrubbing.damaged_versions == 0
    assert house.progress[0].total == house.vault.nbytes
    assert not house.events


def compiled() -> tuple[Manifest, dict[int, bytes]]:
    """One of everything that has a digest, a page for each."""
    content = {HEADER_NBYTES * (1 + n): bytes([n + 1]) * 64 for n in range(6)}
    digests = {offset: xxh3_128_digest(part) for offset, part in content.items()}
    names = ["graph", "source graph", "compiled", "tensor", "x", "y"]
    places = dict(zip(names, content, strict=True))

    def entry(name: str) -> TensorEntry:
        place = places[name]
        return TensorEntry(name, "uint8", (64,), 0, place, 64, digests[place])

    def blob(name: str) -> Blob:
        return Blob(0, places[name], 64, digests[places[name]])

    manifest = Manifest(
        model="m",
        version=1,
        layout="compiled",
        segments=(64 * KIB,),
        tensors=(entry("tensor"),),
        compiled=(entry("compiled"),),
        graph=blob("graph"),
        source_graph=blob("source graph"),
        inputs=(Port("x", "uint8", (64,)),),
        outputs=(Port("y", "uint8", (64,)),),
        reference_inputs=(entry("x"),),
        reference_outputs=(entry("y"),),
        stamp={"engine": "plain"},
    )
    return manifest, content


@pytest.mark.parametrize(
    ("page", "what"),
    [
        (1, "the graph"),
        (2, "the source graph"),
        (3, "compiled tensor 'compiled'"),
        (4, "tensor 'tensor'"),
        (5, "reference input 'x'"),
        (6, "reference output 'y'"),
    ],
)
def test_one_wrong_bit_is_found_wherever_it_is(house: House, page: int, what: str) -> None:
    manifest, content = compiled()
    offset = page * HEADER_NBYTES
    house.hold(Filled(manifest, (sealed(manifest, content, wrong=(offset + 7,)),)))
    [found] = house.verify("m")
    assert (found.pieces, found.verdict) == (6, "damaged")
    assert found.damage.startswith(f"{what}, 64 bytes at {offset} of segment 0: its digest is ")
    assert house.events == [("corrupt", "m", 1, found.damage)]


def test_a_wrong_bit_of_the_manifest_is_found(house: House) -> None:
    manifest, content = compiled()
    house.hold(Filled(manifest, (sealed(manifest, content, wrong=(64 * KIB - 1,)),)))
    [found] = house.verify("m")
    assert (found.pieces, found.verdict) == (0, "damaged")
    assert found.damage.startswith("the manifest: ")
    assert "digest is wrong" in found.damage


def test_a_graph_without_a_digest_is_left_out() -> None:
    manifest, _ = compiled()
    assert manifest.graph is not None
    older = msgspec.structs.replace(
        manifest, graph=msgspec.structs.replace(manifest.graph, digest=b"")
    )
    assert len(pieces_of(older)) == len(pieces_of(manifest)) - 1


@pytest.mark.parametrize(("is_trusted", "is_given"), [(True, True), (False, False)])
def test_a_graph_without_a_digest_is_as_good_as_the_memory_that_it_is_in(
    is_trusted: bool, is_given: bool
) -> None:
    manifest, content = compiled()
    assert manifest.source_graph is not None
    older = msgspec.structs.replace(
        manifest, source_graph=msgspec.structs.replace(manifest.source_graph, digest=b"")
    )
    with (
        sealed(older, content) as segment,
        LiveVersion([segment.fileno()], is_trusted=is_trusted) as live,
        nullcontext() if is_given else pytest.raises(DamagedError, match="nobody can tell"),
    ):
        assert live.graph == bytes([2]) * 64


def test_what_two_versions_share_is_read_once_and_damages_both(house: House) -> None:
    first = plain(count=4, wrong=(2,))
    house.hold(first)
    own = first.manifest
    shared = tuple(msgspec.structs.replace(entry, segment=1) for entry in own.tensors)
    manifest = msgspec.structs.replace(
        own, version=2, segments=(32 * KIB, own.segments[0]), tensors=shared
    )
    house.hold(Filled(manifest, (sealed(manifest, {}), *first.segments)))
    versions = house.verify("m")
    assert [(v.version, v.pieces, v.verdict) for v in versions] == [
        (1, 4, "damaged"),
        (2, 4, "damaged"),
    ]
    assert house.scrubbing.scrubbed_nbytes == 4 * 64 * KIB
    assert house.scrubbing.damaged_versions == 2
    assert [event[:3] for event in house.events] == [("corrupt", "m", 1), ("corrupt", "m", 2)]


def test_what_an_unloaded_models_workers_still_map_is_checked_too(house: House) -> None:
    house.hold(plain(wrong=(0,)))
    key = Key("test", 1, 4711)
    house.catalog.allow("m", {key: 4711}, 1)
    lease = house.catalog.attach("m", key, Guest(4711, 1000, 1000), None)
    house.free(house.catalog.unload("m"))
    [found] = house.verify()
    assert (found.model, found.verdict) == ("m", "damaged")
    assert mark(house.catalog, lease.model.live.uid, found.damage) == [4711]
    house.free(house.catalog.detach(lease.id))
    assert not house.verify()


def test_many_wrong_tensors_are_not_all_told(house: House) -> None:
    count = 2 * MAX_FLAWS
    house.hold(plain(count=count, nbytes=4 * KIB, wrong=tuple(range(count))))
    [found] = house.verify("m")
    assert found.pieces == MAX_FLAWS
    damage = house.catalog.model("m").live.damage
    assert damage.endswith(f"(and {MAX_FLAWS - 1} more)")


def test_more_versions_than_one_scrubber_takes_are_all_checked(house: House) -> None:
    wrong = f"m{MAX_TARGETS}"
    for number in range(MAX_TARGETS + 3):
        name = f"m{number}"
        house.hold(plain(name, count=1, nbytes=64, wrong=(0,) if name == wrong else ()))
    found = house.verify()
    assert len(found) == MAX_TARGETS + 3
    assert [check.model for check in found if check.verdict == "damaged"] == [wrong]


# --- what follows -------------------------------------------------------------------------


def test_an_alarm_is_raised_once_and_not_in_every_round(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.hold(plain(wrong=(1, 3)))
    house.scrubbing.start()
    rounds = 3 * house.vault.nbytes
    house.run_until(lambda: house.scrubbing.scrubbed_nbytes > rounds)
    assert [event[:3] for event in house.events] == [("corrupt", "m", 1)]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2
    assert "m version 1 is damaged in memory: tensor 't1'" in errors[0]
    assert "tensor 't3'" in errors[1]
    assert "publish its weights again" in errors[0]


def test_nobody_rolls_back_to_a_damaged_version(house: House) -> None:
    house.hold(plain(wrong=(0,)))
    house.hold(plain())
    house.verify("m")
    with pytest.raises(DamagedError, match="tensor 't0'"):
        house.catalog.rollback("m", None)
    assert house.catalog.model("m").live.number == 2


def test_a_segment_with_wrong_bytes_is_trusted_by_nobody_until_it_is_gone(house: House) -> None:
    damaged, whole = plain(wrong=(0,)), plain("n")
    house.hold(damaged)
    house.hold(whole)
    house.verify()
    assert not house.vault.is_trusted(damaged)
    assert house.vault.is_trusted(whole)
    house.free(house.catalog.unload("m"))
    assert house.scrubbing.damaged_versions == 0
    assert not house.vault._distrusted
