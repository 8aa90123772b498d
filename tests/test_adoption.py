"""adoption.py: of what an earlier daemon left, only what the state names, and only what is as it
was; the rest is refused, said, and let go."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.scrub import KIB
from tests.stored import Store, let_go, memory, names_of, numbers, taken, two_versions
from weightd.daemon.adoption import STATE
from weightd.daemon.catalog import Catalog
from weightd.daemon.counters import Counters
from weightd.daemon.estate import Estate
from weightd.daemon.fdstore import FdStore
from weightd.daemon.loop import Loop
from weightd.daemon.model import VersionState
from weightd.daemon.processes import ProcessTable
from weightd.daemon.sources import Sources, file_name
from weightd.daemon.state import KeptGrant, KeptVersion, encode
from weightd.daemon.succession import Succession
from weightd.daemon.vault import Vault, segment_name
from weightd.ipc.manager import Given, Manager
from weightd.ipc.peer import Process
from weightd.ipc.segment import Segment, new_memfd
from weightd.ipc.slots import Slots
from weightd.weights.manifest import HEADER_NBYTES


@pytest.fixture
def store() -> Iterator[Store]:
    with two_versions() as made:
        yield made


# --- as it was ---------------------------------------------------------------------------


def test_what_the_state_names_is_adopted_as_it_was(store: Store) -> None:
    before = len(os.listdir("/proc/self/fd"))
    adopted = taken(store)
    assert (adopted.refused, adopted.unused) == ([], [])
    assert (adopted.incarnation, adopted.last_uid) == ("incarnation", 150)
    [model] = adopted.models
    assert (model.name, model.owner_uid, model.next_number, model.was_live) == ("m", 7, 3, [1, 2])
    assert [v.uid for v in model.versions.values()] == [101, 102]
    assert numbers(adopted) == [(1, "HELD"), (2, "LIVE")]
    assert [adopted.versions[uid].manifest.version for uid in (101, 102)] == [1, 2]
    assert {uid: (s.name, s.key) for uid, s in adopted.sources.items()} == {
        101: ("m.onnx", "key1"),
        102: ("m.onnx", "key2"),
    }
    let_go(adopted)
    assert len(os.listdir("/proc/self/fd")) == before - 6


def test_versions_that_share_memory_or_a_file_share_it_again(store: Store) -> None:
    first, second = store.versions
    shared = memory(3, segments=(HEADER_NBYTES + 132 * KIB, HEADER_NBYTES + 132 * KIB))
    store.put(segment_name(shared.inode), os.dup(shared.fileno()))
    inodes = (shared.inode, second.segments[0])
    store.versions.append(msgspec.structs.replace(second, uid=103, number=3, segments=inodes))
    shared.close()
    adopted = taken(store)
    assert adopted.refused == []
    assert adopted.versions[103].segments[1] is adopted.versions[102].segments[0]
    assert adopted.sources[103].key == adopted.sources[102].key
    let_go(adopted)
    assert first.uid in adopted.versions


def test_what_no_state_names_is_let_go(store: Store) -> None:
    store.put("segment.1", new_memfd("weightd:test"))
    store.put("", os.open(os.devnull, os.O_RDONLY))
    adopted = taken(store)
    assert (numbers(adopted), adopted.refused) == ([(1, "HELD"), (2, "LIVE")], [])
    assert sorted(adopted.unused) == ["", "segment.1"]
    let_go(adopted)


def test_a_daemon_killed_before_its_first_state_left_nothing(store: Store) -> None:
    store.put(STATE, Slots.new("weightd.state").fileno())
    adopted = taken(store, commit=False)
    assert (adopted.models, adopted.refused, adopted.incarnation) == ([], [], "")
    assert adopted.slots is not None
    assert len(adopted.unused) == 6
    let_go(adopted)


# --- memory that is not as it should be --------------------------------------------------


def unsealed(version: KeptVersion) -> int:
    fd = new_memfd("weightd:test")
    os.ftruncate(fd, 4096)
    kept = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    return kept


def writable(version: KeptVersion) -> int:
    """Sealed, but not through a descriptor that can only read."""
    fd = new_memfd("weightd:test")
    segment = Segment.allocate(os.dup(fd), 4096)
    segment.seal()
    return fd


def foreign(version: KeptVersion) -> int:
    other = memory(version.number)
    fd = os.dup(other.fileno())
    other.close()
    return fd


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unsealed, "is not sealed"),
        (writable, "is open for writing"),
        (foreign, "is other memory"),
        (lambda _: os.open(os.devnull, os.O_RDONLY), "is other memory"),
    ],
)
def test_memory_that_is_not_what_it_was_is_refused_and_the_rest_adopted(
    store: Store, make: Callable[[KeptVersion], int], reason: str
) -> None:
    version = store.versions[0]
    fd = make(version)
    inode = os.fstat(fd).st_ino if make in (unsealed, writable) else version.segments[0]
    store.lose(segment_name(version.segments[0]))
    store.versions[0] = version = msgspec.structs.replace(version, segments=(inode,))
    store.put(segment_name(inode), fd)
    adopted = taken(store)
    assert numbers(adopted) == [(2, "LIVE")]
    [said] = adopted.refused
    assert said.startswith("m version 1: ")
    assert reason in said
    assert sorted(adopted.unused) == sorted(names_of(version))
    let_go(adopted)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "other"}, "its memory says that it is 'other' version 3"),
        ({"version": 9}, "its memory says that it is 'm' version 9"),
        ({"segments": (HEADER_NBYTES + 132 * KIB, 8192)}, "not of the sizes that its manifest"),
    ],
)
def test_a_manifest_of_another_version_is_refused(
    store: Store, changes: dict[str, object], reason: str
) -> None:
    version = store.version(3, **changes)
    adopted = taken(store)
    assert (numbers(adopted)[0], len(adopted.models[0].versions)) == ((1, "HELD"), 2)
    assert reason in adopted.refused[0]
    assert sorted(adopted.unused) == sorted(names_of(version))
    let_go(adopted)


def test_sealed_memory_without_a_manifest_is_refused(store: Store) -> None:
    fd = writable(store.versions[0])
    kept = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    inode = os.fstat(kept).st_ino
    store.put(segment_name(inode), kept)
    store.versions[0] = msgspec.structs.replace(store.versions[0], segments=(inode,))
    adopted = taken(store)
    assert numbers(adopted) == [(2, "LIVE")]
    assert adopted.refused[0].startswith("m version 1: ")
    assert segment_name(inode) in adopted.unused
    let_go(adopted)


def test_memory_that_is_not_there_is_told(store: Store) -> None:
    [inode] = store.versions[0].segments
    store.lose(segment_name(inode))
    adopted = taken(store)
    assert adopted.refused == [f"m version 1: memory {inode} is not in the fd store"]
    assert numbers(adopted) == [(2, "LIVE")]
    let_go(adopted)


def test_of_two_with_one_name_the_first_counts(store: Store) -> None:
    name = segment_name(store.versions[1].segments[0])
    store.put(name, foreign(store.versions[1]))
    adopted = taken(store)
    assert adopted.refused == [f"a second descriptor with the name {name!r}"]
    assert numbers(adopted) == [(1, "HELD"), (2, "LIVE")]
    assert adopted.unused == []
    let_go(adopted)


def test_a_lost_live_version_is_followed_by_the_newest_one_loudly(store: Store) -> None:
    version = store.version(3)
    store.lose(segment_name(version.segments[0]))
    adopted = taken(store)
    assert numbers(adopted) == [(1, "HELD"), (2, "LIVE")]
    assert adopted.models[0].live.state is VersionState.LIVE
    assert adopted.models[0].next_number == 4  # no number means two things
    assert adopted.refused[1] == "m: its live version is lost; version 2 is live instead"
    let_go(adopted)


def test_a_model_with_nothing_left_is_gone_with_all_that_it_had(store: Store) -> None:
    for version in store.versions:
        store.lose(segment_name(version.segments[0]))
    adopted = taken(store)
    assert (adopted.models, adopted.versions, adopted.sources) == ([], {}, {})
    assert adopted.refused[-1] == "m: none of its versions is left that was live"
    assert len(adopted.unused) == 4
    let_go(adopted)


def test_a_version_that_only_workers_held_does_not_become_live(store: Store) -> None:
    """Two versions were live; a third, older one was held by workers alone."""
    held, live = store.versions
    state = store.state()
    [model] = state.models
    store.lose(segment_name(live.segments[0]))
    model = msgspec.structs.replace(model, was_live=(2,))
    store.commit(encode(msgspec.structs.replace(state, models=(model,))))
    adopted = taken(store, commit=False)
    assert (adopted.models, adopted.versions, adopted.sources) == ([], {}, {})
    assert set(names_of(held)) <= set(adopted.unused)  # nothing of it stays in the store
    let_go(adopted)


def test_a_version_whose_file_is_missing_is_served_without_it(store: Store) -> None:
    store.lose(file_name("key2"))
    adopted = taken(store)
    assert numbers(adopted) == [(1, "HELD"), (2, "LIVE")]
    assert adopted.refused == ["the file of version 2, m.onnx: it is not in the fd store"]
    assert (list(adopted.sources), adopted.unused) == ([101], ["folder.key2"])
    let_go(adopted)


# --- a state that is not as it should be -------------------------------------------------


@pytest.mark.parametrize("raw", [b"\xc1", b"\x93\x01\x02", b"\x80\x80"])
def test_a_state_that_cannot_be_read_adopts_nothing(store: Store, raw: bytes) -> None:
    store.commit(raw)
    adopted = taken(store, commit=False)
    assert (adopted.models, adopted.versions, adopted.slots) == ([], {}, None)
    assert adopted.refused[0].startswith("the state, and with it everything: it cannot be read")
    assert len(adopted.unused) == 6


def test_a_damaged_state_adopts_nothing(store: Store) -> None:
    store.put(STATE, new_memfd("weightd:test"))
    adopted = taken(store, commit=False)
    assert (adopted.models, adopted.slots, len(adopted.unused)) == ([], None, 6)
    assert "not of the size and the seals" in adopted.refused[0]


def test_without_a_state_nothing_is_adopted(store: Store) -> None:
    adopted = taken(store, commit=False)
    assert adopted.models == []
    assert adopted.refused == ["everything that is stored: there is no state that names it"]
    assert len(adopted.unused) == 6


@pytest.mark.parametrize("is_damaged", [True, False])
def test_the_next_daemon_finds_one_state_in_the_store(store: Store, is_damaged: bool) -> None:
    """Played against a manager that does what it is told: a damaged state is replaced, and what was
    put in its place stays."""
    if is_damaged:
        store.put(STATE, new_memfd("weightd:test"))
    else:
        store.commit()
    stored, store.fds = tuple(store.fds), []
    held = {name for name, _ in stored}
    path = f"\0weightd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        loop, manager = Loop(), Manager("@" + path[1:])
        parts = FdStore(loop, Given(notify="x", stored=stored, room=50), manager)
        vault, sources, processes = Vault(), Sources(), ProcessTable(loop, lambda _: None)
        estate = Estate(parts, Catalog(), vault, sources, processes)
        succession = Succession(estate, stored, Counters())
        notify.setblocking(False)
        while told := hear(notify):
            name = told["FDNAME"]
            held = held | {name} if "FDSTORE" in told else held - {name}
        sources.close()
        vault.close()
        succession.close()
        manager.close()
        loop.close()
    assert STATE in held
    assert len(held) == (1 if is_damaged else 7)


def hear(notify: socket.socket) -> dict[str, str]:
    try:
        raw, fds, _, _ = socket.recv_fds(notify, 4096, 4)
    except BlockingIOError:
        return {}
    for fd in fds:
        os.close(fd)
    return dict(line.split("=", 1) for line in raw.decode().splitlines())


# --- whom it let in ----------------------------------------------------------------------


def grant(*processes: tuple[str, int, int, int]) -> KeptGrant:
    return KeptGrant(5, processes)


def key_of(pid: int) -> tuple[str, int, int, int]:
    with Process.of_pid(pid) as process:
        return (process.key.kind, process.key.pid, process.key.number, pid)


def test_who_still_lives_stays_let_in_and_nobody_else(store: Store) -> None:
    gone = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    ended = key_of(gone.pid)
    gone.wait()
    here = key_of(os.getpid())
    kind, pid, number, _ = key_of(os.getppid())
    another = (kind, pid, number + 1, pid)  # had this PID before
    zombie = subprocess.Popen(["true"])
    dying = key_of(zombie.pid)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    store.model = msgspec.structs.replace(
        store.model, grants=(grant(ended, here), grant(another), grant(dying), grant(here, another))
    )
    adopted = taken(store)
    grants = adopted.models[0].grants
    assert [list(g.processes.values()) for g in grants] == [[os.getpid()], [os.getpid()]]
    assert {process.pid for process in adopted.processes} == {os.getpid()}
    assert adopted.refused == []
    let_go(adopted)
    zombie.wait()
