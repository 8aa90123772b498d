"""A stager that a hostile file took over: the daemon believes nothing that it left."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.daemons import LENET
from tests.helpers import open_descriptors
from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.loop import Loop
from weightd.daemon.staging import Filled, Order, Outcome, Staging
from weightd.errors import BadManifestError, MismatchError, StagingError
from weightd.ipc.segment import Segment, new_memfd
from weightd.weights.entries import Blob, Parameter, TensorEntry
from weightd.weights.manifest import HEADER_NBYTES, Manifest, pack_header

PAGE = 8192
HONEST = Manifest(
    model="m", version=2, layout="tensors", segments=(PAGE,), tensors=(), stamp={"engine": ""}
)
LIVE = msgspec.structs.replace(HONEST, version=1, parameters=(Parameter("w", "float32", (2,)),))
LIAR = """
import sys
from weightd.ipc import protocol
from weightd.ipc.job import Job, Staged
from weightd.ipc.segment import SEALS
import fcntl, os
job = protocol.decode(sys.stdin.buffer.read(), Job)
def report(message): os.write(int(sys.argv[-1]), protocol.encode(message))
def fill(raw, seals=SEALS):
    os.write(job.segment_fd, raw)
    if seals: fcntl.fcntl(job.segment_fd, fcntl.F_ADD_SEALS, seals)
"""


def page(manifest: Manifest, *, damage: int | None = None) -> bytes:
    """A segment of one page that holds the manifest."""
    raw = manifest.encode()
    content = bytearray(pack_header(HEADER_NBYTES, raw).ljust(HEADER_NBYTES, b"\0") + raw)
    if damage is not None:
        content[damage] ^= 1
    return bytes(content.ljust(PAGE, b"\0"))


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def live(manifest: Manifest = LIVE) -> Filled:
    fd = new_memfd("live")
    keep = os.dup(fd)
    segment = Segment.allocate(fd, PAGE)
    segment.seal()
    return Filled(manifest, (Segment.adopt(keep),))


def outcome_of(  # noqa: PLR0913 - each is a part of an order
    loop: Loop,
    program: str,
    *,
    base: Filled | None = None,
    names: tuple[str, ...] = (),
    is_overlay: bool = False,
    update: OfferedFile | None = None,
    is_alone: bool = False,
) -> Outcome:
    """What the daemon makes of a stager that runs this program."""
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        loop.stop()

    file_fd = os.open(LENET, os.O_RDONLY)
    order = Order(
        "m", 2, "lenet5.onnx", file_fd, None, "plain", False, base, None, 20.0, 60.0, names=names,
        is_overlay=is_overlay, update=update, is_alone=is_alone,
    )  # fmt: skip
    argv = [sys.executable, "-c", LIAR + program]
    Staging(loop, order, lambda _: None, done, stager=argv)
    loop.run()
    os.close(file_fd)
    assert len(outcomes) == 1
    return outcomes[0]


def test_an_honest_one_is_believed(loop: Loop) -> None:
    program = f"fill({page(HONEST)!r}); report(Staged(8192))"
    outcome = outcome_of(loop, program)
    assert isinstance(outcome, Filled)
    assert outcome.manifest == HONEST
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(outcome.segments[0].fileno(), b"x", 0)
    outcome.segments[0].close()


OTHER_MODEL = msgspec.structs.replace(HONEST, model="n")
OTHER_NUMBER = msgspec.structs.replace(HONEST, version=3)
OTHER_SIZE = msgspec.structs.replace(HONEST, segments=(2 * PAGE,))
OTHER_ENGINE = msgspec.structs.replace(HONEST, stamp={"engine": "plain"})
RENAMED = msgspec.structs.replace(HONEST, renamed={"net.w": "w"})
OTHER_RULES = msgspec.structs.replace(HONEST, stamp={"engine": "", "names": "net.*=*"})
NO_STAMP = msgspec.structs.replace(HONEST, stamp={})
STAGED = "report(Staged(8192))"
LIES = {
    "unsealed": (f"fill({page(HONEST)!r}, 0); {STAGED}", StagingError, "not sealed"),
    "half-sealed": (f"fill({page(HONEST)!r}, 7); {STAGED}", StagingError, "not sealed"),
    "empty": (f"fill(b''); {STAGED}", StagingError, "empty"),
    "no manifest": (f"fill(bytes(8192)); {STAGED}", BadManifestError, "magic"),
    "too short": (f"fill(b'x'); {STAGED}", BadManifestError, "too short"),
    "damaged": (f"fill({page(HONEST, damage=HEADER_NBYTES)!r}); {STAGED}", BadManifestError, "di"),
    "other model": (f"fill({page(OTHER_MODEL)!r}); {STAGED}", StagingError, "made 'n' version 2"),
    "other number": (f"fill({page(OTHER_NUMBER)!r}); {STAGED}", StagingError, "'m' version 3"),
    "other size": (f"fill({page(OTHER_SIZE)!r}); {STAGED}", BadManifestError, "this one has 8192"),
    "other engine": (f"fill({page(OTHER_ENGINE)!r}); {STAGED}", StagingError, "another engine"),
    "no stamp": (f"fill({page(NO_STAMP)!r}); {STAGED}", StagingError, "another engine"),
    "names unasked": (f"fill({page(RENAMED)!r}); {STAGED}", StagingError, "other names than asked"),
    "other rules": (f"fill({page(OTHER_RULES)!r}); {STAGED}", StagingError, "other names than"),
    "no report": (f"fill({page(HONEST)!r})", StagingError, "status 0 and no result"),
    "bad status": (f"fill({page(HONEST)!r}); {STAGED}; sys.exit(7)", StagingError, "status 7"),
    "nonsense": ("os.write(int(sys.argv[-1]), b'hello')", StagingError, "reported nonsense"),
    "another's message": ("report(protocol.Done())", StagingError, "reported nonsense"),
    "unknown error": ("report(protocol.Failed('Own', 'gotcha'))", Exception, "gotcha"),
    "a traceback": ("1 / 0", StagingError, "it said: ZeroDivisionError"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(loop: Loop, lie: str) -> None:
    program, error, text = LIES[lie]
    outcome = outcome_of(loop, program)
    assert isinstance(outcome, error)
    assert text in str(outcome)


def test_parameters_that_do_not_fit_the_live_version_are_refused(loop: Loop) -> None:
    base = live()
    program = f"fill({page(HONEST)!r}); {STAGED}"
    outcome = outcome_of(loop, program, base=base)
    base.segments[0].close()
    assert isinstance(outcome, MismatchError)


@pytest.mark.parametrize(("new", "is_believed"), [("w", True), ("", True), ("x", False)])
def test_a_name_that_the_model_does_not_have_is_shown_to_nobody(
    loop: Loop, new: str, is_believed: bool
) -> None:
    rules = ("net.*=*",)
    stamp = {"engine": "", "names": rules[0]}
    manifest = msgspec.structs.replace(
        HONEST, parameters=LIVE.parameters, stamp=stamp, renamed={"net.w": new}
    )
    base = live()
    outcome = outcome_of(loop, f"fill({page(manifest)!r}); {STAGED}", base=base, names=rules)
    base.segments[0].close()
    if is_believed:
        assert isinstance(outcome, Filled)
        outcome.segments[0].close()
    else:
        assert isinstance(outcome, StagingError)


W = TensorEntry("w", "float32", (2,), 0, 4096 + 2048, 8, bytes(16))
V = msgspec.structs.replace(W, name="v", offset=W.offset + 64)
BOTH = (*LIVE.parameters, Parameter("v", "float32", (2,)))
UPDATED = msgspec.structs.replace(LIVE, parameters=BOTH, tensors=(W, V), updated=("w",))
UPDATES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "one more": ("update", ("w", "v"), True),
    "the same one": ("update", ("w",), True),
    "another": ("update", ("v",), False),
    "none": ("update", (), False),
    "nothing new": ("again", ("w",), True),
    "unasked": ("again", ("w", "v"), False),
    "a publish": ("publish", (), True),
    "by a publish": ("publish", ("w",), False),
}


@pytest.mark.parametrize("case", UPDATES)
def test_updated_is_what_an_update_may_have_made_it(loop: Loop, case: str) -> None:
    what, updated, is_believed = UPDATES[case]
    manifest = msgspec.structs.replace(UPDATED, version=2, updated=updated)
    base = live(UPDATED)
    file_fd = os.open(LENET, os.O_RDONLY)
    outcome = outcome_of(
        loop,
        f"fill({page(manifest)!r}); {STAGED}",
        base=base,
        is_overlay=what != "publish",
        update=OfferedFile("update", file_fd, None) if what == "update" else None,
    )
    os.close(file_fd)
    base.segments[0].close()
    if is_believed:
        assert isinstance(outcome, Filled), outcome
        outcome.segments[0].close()
    else:
        assert "lost or made up an update" in str(outcome)


@pytest.mark.parametrize("key", ["origin", "origin_weights"])
def test_another_origin_than_the_live_versions_is_refused(loop: Loop, key: str) -> None:
    stamp = {"engine": "", key: "another"}
    manifest = msgspec.structs.replace(HONEST, parameters=LIVE.parameters, stamp=stamp)
    base = live()
    outcome = outcome_of(loop, f"fill({page(manifest)!r}); {STAGED}", base=base)
    base.segments[0].close()
    assert "another origin" in str(outcome)


SHARING = msgspec.structs.replace(HONEST, segments=(PAGE, PAGE))
FITTING = msgspec.structs.replace(SHARING, parameters=LIVE.parameters)
FOREIGN: dict[str, tuple[Manifest, str]] = {
    "one that is not there": (FITTING, "(1,)"),
    "the same one twice": (msgspec.structs.replace(FITTING, segments=(PAGE,) * 3), "(0, 0)"),
    "more than it uses": (msgspec.structs.replace(FITTING, segments=(PAGE,)), "(0,)"),
    "fewer than it uses": (FITTING, "()"),
    "one of another size": (msgspec.structs.replace(FITTING, segments=(PAGE, 2 * PAGE)), "(0,)"),
    "what is no tensor there": (
        msgspec.structs.replace(FITTING, source_graph=Blob(1, HEADER_NBYTES, 10)),
        "(0,)",
    ),
}


@pytest.mark.parametrize("lie", FOREIGN)
def test_a_stager_that_names_a_foreign_segment_is_refused(loop: Loop, lie: str) -> None:
    manifest, numbers = FOREIGN[lie]
    base = live()
    program = f"fill({page(manifest)!r}); report(Staged(8192, {numbers}))"
    outcome = outcome_of(loop, program, base=base)
    base.segments[0].close()
    assert isinstance(outcome, BadManifestError)
    assert "older segment" in str(outcome)


@pytest.mark.parametrize(("manifest", "numbers"), [(SHARING, "(0,)"), (HONEST, "(0,)")])
def test_a_first_version_shares_nothing(loop: Loop, manifest: Manifest, numbers: str) -> None:
    program = f"fill({page(manifest)!r}); report(Staged(8192, {numbers}))"
    outcome = outcome_of(loop, program)
    assert isinstance(outcome, StagingError)
    assert "speaks of older segments" in str(outcome)


def test_an_honest_one_may_use_the_live_versions_segment(loop: Loop) -> None:
    base = live()
    program = f"fill({page(FITTING)!r}); report(Staged(8192, (0,)))"
    outcome = outcome_of(loop, program, base=base)
    assert isinstance(outcome, Filled)
    assert outcome.segments[1:] == base.segments
    for segment in outcome.segments:
        segment.close()


def test_one_that_must_share_nothing_may_not(loop: Loop) -> None:
    base = live()
    program = f"fill({page(FITTING)!r}); report(Staged(8192, (0,)))"
    outcome = outcome_of(loop, program, base=base, is_alone=True)
    base.segments[0].close()
    assert isinstance(outcome, StagingError)
    assert "segments that it must not" in str(outcome)


def test_a_grandchild_that_keeps_the_pipe_open_holds_nobody_up(loop: Loop) -> None:
    program = f"fill({page(HONEST)!r}); {STAGED}\nif os.fork() == 0: import time; time.sleep(3)"
    outcome = outcome_of(loop, program)
    assert isinstance(outcome, Filled)
    outcome.segments[0].close()


def test_refused_memory_goes_back_at_once_and_not_with_the_garbage_collector(loop: Loop) -> None:
    gc.disable()
    try:
        outcome = outcome_of(loop, f"fill(bytes(8192)); {STAGED}")
        assert isinstance(outcome, BadManifestError)
        assert not [d for d in open_descriptors().values() if "weightd:m.v2" in d]
    finally:
        gc.enable()


def test_a_stager_that_cannot_be_started_is_refused(loop: Loop, tmp_path: Path) -> None:
    file_fd = os.open(LENET, os.O_RDONLY)
    order = Order("m", 1, "lenet5.onnx", file_fd, None, "plain", False, None, None, 20.0, 60.0)
    with pytest.raises(StagingError, match="could not be started"):
        Staging(loop, order, lambda _: None, lambda _: None, stager=[str(tmp_path / "none")])
    os.close(file_fd)
