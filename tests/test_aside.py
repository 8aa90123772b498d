"""What this daemon cannot adopt and a later one may: it is kept as it is, said, and adopted
then."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from tests.daemons import FINAL, LENET, WORKERS, Kept, kept_daemon, running_worker
from tests.helpers import open_descriptors, wait_until
from tests.stored import Store, let_go, names_of, numbers, taken, two_versions
from weightd.daemon.model import Aside
from weightd.daemon.state import KeptGrant
from weightd.errors import ModelExistsError, NewerFormatError, UnknownModelError
from weightd.ipc.peer import Process
from weightd.weights import manifest

OLDER = ("-P", str(WORKERS / "older_daemon.py"))


@pytest.fixture
def store() -> Iterator[Store]:
    with two_versions() as made:
        yield made


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """No more than that many can be opened meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = [os.open(os.devnull, os.O_RDONLY) for _ in range(count + 1)]
    for fd in found:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (found[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_model_with_a_version_of_a_newer_weightd_is_set_aside_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
        version = store.version(3)
    store.lose(names_of(store.versions[0])[0])  # and one of its versions is lost for good
    entry = store.state().models[0]
    before = len(open_descriptors())
    adopted = taken(store)
    assert (adopted.models, adopted.versions, adopted.sources) == ([], {}, {})
    assert (adopted.unused, adopted.refused) == ([], [])
    assert adopted.aside == {"m": entry}
    assert "version 3: segment format 2" in adopted.reasons["m"]
    assert version.number == 3
    let_go(adopted)
    assert len(open_descriptors()) < before  # what is stored is the store's alone


@pytest.mark.parametrize(
    ("count", "what"), [(0, "version 1"), (1, "version 2"), (2, "allowed process {}")]
)
def test_a_model_for_which_no_descriptor_is_left_is_set_aside_whole(
    store: Store, count: int, what: str
) -> None:
    """Each version that is mapped takes one, and each process that is looked at, which does not
    lose its right because of that."""
    with Process.of_pid(os.getpid()) as process:
        key = process.key
    grant = KeptGrant(5, ((key.kind, key.pid, key.number, key.pid),))
    store.model = msgspec.structs.replace(store.model, grants=(grant,))
    store.commit()
    with descriptors_left(count):
        adopted = taken(store, commit=False)
    assert list(adopted.aside) == ["m"]
    assert adopted.reasons["m"] == f"{what.format(os.getpid())}: {os.strerror(errno.EMFILE)}"
    assert (adopted.models, adopted.unused, adopted.refused) == ([], [], [])
    let_go(adopted)


def test_where_nothing_is_wrong_nothing_is_set_aside(store: Store) -> None:
    adopted = taken(store)
    assert (adopted.aside, numbers(adopted)) == ({}, [(1, "HELD"), (2, "LIVE")])
    let_go(adopted)


def test_a_state_of_a_newer_weightd_leaves_all_as_it_is(store: Store) -> None:
    """It is msgpack with the right digest, and not of a form that this one knows."""
    store.commit(msgspec.msgpack.encode({"incarnation": "x", "last_uid": 1, "moons": 2}))
    before = len(open_descriptors()) - len(store.fds)
    with pytest.raises(NewerFormatError, match="Nothing is given up"):
        taken(store, commit=False)
    assert len(open_descriptors()) == before


def test_who_asks_for_what_is_set_aside_hears_why() -> None:
    said = str(Aside("m", 0, "the reason", ()))
    assert "'m'" in said
    assert "the reason" in said
    assert "weightd unload m" in said


# --- daemons -----------------------------------------------------------------------------


@pytest.fixture
def older() -> Iterator[Kept]:
    """A kept daemon that can be an older one, with LeNet-5 in two versions."""
    with kept_daemon(program=OLDER) as daemon:
        daemon.load_lenet()
        daemon.client.publish("lenet", FINAL)
        yield daemon


def become_older(daemon: Kept, what: str) -> Path:
    order = daemon.runtime_dir / "older"
    order.write_text(what)
    return order


def test_a_model_that_an_older_daemon_set_aside_is_served_by_the_next(older: Kept) -> None:
    before = older.client.status()
    with running_worker(older) as worker:
        older.client.allow("lenet", worker.pid)
        worker.ask("attach", model="lenet")
        answer = worker.ask("predict", model="lenet")["digests"]
        order = become_older(older, "manifest")
        older.kill()
        status = older.client.status()
        assert status.models == {}
        assert "model 'lenet' is kept in the fd store" in status.notes[0]
        assert "segment format" in status.notes[0]
        assert older.client.counters().events["set-aside"] == 1
        with pytest.raises(ModelExistsError, match="is kept in the fd store"):
            older.client.load("lenet", LENET)
        with pytest.raises(UnknownModelError, match="is kept in the fd store"):
            older.client.rollback("lenet")
        older.kill()  # it goes on to the one after the next, too
        assert worker.ask("predict", model="lenet")["digests"] == answer
        order.unlink()
        older.kill()
        after = older.client.status()
        held = [(v.number, v.state) for v in before.models["lenet"].versions]
        assert [(v.number, v.state) for v in after.models["lenet"].versions] == held
        assert (after.notes, after.incarnation) == ((), before.incarnation)
        wait_until(lambda: [w.pid for w in older.client.status().workers] == [worker.pid])
        assert older.client.publish("lenet", FINAL) == 3


def test_what_is_set_aside_can_be_given_up(older: Kept) -> None:
    def segments() -> list[str]:
        """In the store: names of memfds with a version."""
        folder = Path(f"/proc/{older.process.pid}/fd")
        targets = []
        for fd in folder.iterdir():
            with suppress(FileNotFoundError):  # the keeper gave it up meanwhile
                targets.append(os.readlink(fd))
        return [target for target in targets if target.startswith("/memfd:weightd:lenet")]

    assert len(segments()) == 2
    order = become_older(older, "manifest")
    older.kill()
    assert len(segments()) == 2
    older.client.unload("lenet")
    wait_until(lambda: not segments())
    assert older.client.status().notes == ()
    order.unlink()
    older.kill()
    assert older.client.status().models == {}
    assert older.load_lenet() == 1


def test_a_daemon_that_cannot_read_a_newer_state_does_not_begin_and_loses_nothing(
    older: Kept,
) -> None:
    before = older.client.status().models
    order = become_older(older, "state")
    os.kill(older.pid, 9)
    wait_until(lambda: older.log().count("was written by a newer weightd") >= 2)
    order.unlink()
    wait_until(lambda: older.client.status().models == before)
    assert older.client.publish("lenet", FINAL) == 3
