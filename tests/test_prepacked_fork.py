"""Forked children: a session that is inherited answers right, whatever other threads did during the
fork; an attachment is not inherited, and is attached anew."""

import gc
import os
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import weightd
from tests import nets
from tests.daemons import Daemon, running_daemon
from tests.helpers import wait_until
from tests.pairs import Pair, core_of, entry_named, paired
from tests.zoo import seeds
from weightd.backends.prepacked.core import Core
from weightd.errors import ForkedError, NotAllowedError, UsageError

MLP = entry_named("mlp")
DEADLINE_S = 20

# Python 3.12 and later warn of what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(MLP) as pair:
        yield pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fork")
    return [nets.saved(net, folder / f"{number}.onnx") for number, net in enumerate(seeds(MLP))]


class Child:
    """A forked child that does `work` when it is told to go, gives its result, and waits to be
    killed. What it raises is its result, too."""

    def __init__(self, work: Callable[[], object]) -> None:
        go, self._go = os.pipe()
        self._result, result = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.read(go, 1)
            try:
                answer = str(work())
            except BaseException:  # noqa: BLE001 - the test says what it was
                answer = traceback.format_exc()
            os.write(result, answer.encode()[-4000:])
            signal.pause()
            os._exit(0)
        os.close(go)
        os.close(result)

    def go(self) -> "Child":
        os.write(self._go, b"1")
        return self

    def result(self) -> str:
        poller = select.poll()
        poller.register(self._result, select.POLLIN)
        assert poller.poll(DEADLINE_S * 1000), "the child hangs"
        return os.read(self._result, 8000).decode()

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._go)
        os.close(self._result)


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[Child]:
    child = Child(work)
    try:
        yield child
    finally:
        child.close()


@contextmanager
def repeated(*works: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Each in a thread of its own, again and again; what one raises ends it."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - the test says what it was
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# --- sessions ----------------------------------------------------------------------------


def test_a_child_forked_amid_predictions_and_switches_answers_one_versions_own_bits(
    mlp: Pair,
) -> None:
    session = mlp.open_packed(1)
    versions = mlp.map(1), mlp.map(2)
    asked: list[int] = []

    def in_child() -> int:
        inherited = session.inherited()
        assert inherited is not None
        return mlp.run(inherited)

    def switch() -> None:
        for version in versions:
            session.swap(version)

    seen: set[str] = set()
    with repeated(switch, lambda: asked.append(mlp.run(session))) as failures:
        for _ in range(20):
            with forked(in_child) as child:
                seen.add(child.go().result())
    assert not failures
    assert seen <= {"1", "2"}
    assert set(asked) == {1, 2}
    session.close()


def test_a_child_switches_by_itself_and_so_does_its_parent(mlp: Pair) -> None:
    session = mlp.open_packed(1)
    assert mlp.run(session) == 1

    def in_child() -> list[object]:
        inherited = session.inherited()
        assert inherited is not None
        core = core_of(inherited)
        seen: list[object] = [mlp.run(inherited)]
        for number in (2, 1, 2):
            inherited.swap(mlp.map(number))
            seen.append(mlp.run(inherited))
        return [*seen, core_of(inherited) is core]

    with forked(in_child) as child:
        assert child.go().result() == "[1, 2, 1, 2, True]"
        assert mlp.run(session) == 1
        session.swap(mlp.map(2))
        assert mlp.run(session) == 2
    with forked(in_child) as child:
        session.swap(mlp.map(1))
        assert child.go().result() == "[2, 2, 1, 2, True]"
        assert mlp.run(session) == 1
    session.close()


def test_a_child_forked_before_the_first_check_is_done_checks_by_itself(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, parent, may_check = Core.check, os.getpid(), threading.Event()
    checked_in: list[int] = []

    def check(core: Core) -> None:
        if os.getpid() == parent:
            assert may_check.wait(DEADLINE_S)
        checked_in.append(os.getpid())
        honest(core)

    monkeypatch.setattr(Core, "check", check)
    session = mlp.open_packed(1)

    def in_child() -> tuple[int, bool]:
        inherited = session.inherited()
        assert inherited is not None
        return mlp.run(inherited), checked_in == [os.getpid()]

    with forked(in_child) as child:
        assert child.go().result() == "(1, True)"
    may_check.set()
    assert mlp.run(session) == 1
    session.close()


def test_a_session_on_another_engine_is_not_inherited(mlp: Pair) -> None:
    with paired(entry_named("static_int8_conv")) as plain:
        session = plain.open(1)
        assert session.engine == "plain"
        assert session.inherited() is None
        session.close()


# --- attachments -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(files: list[Path]) -> Iterator[Daemon]:
    """A daemon that holds only what is live or mapped."""
    with running_daemon(keep=1) as daemon:
        daemon.client.load("mlp", files[0])
        yield daemon


def attach_in_child(here: weightd.Attachment, pair: Pair) -> str:
    """Attach in a child and predict once."""
    mine = here.attach_in_child()
    return f"{mine.engine} {pair.number_of(mine.predict(pair.feed))}"


def test_an_attachment_is_not_for_a_child_and_attaching_in_one_is_for_no_other(
    served: Daemon, mlp: Pair
) -> None:
    with served.attach_here("mlp") as here:
        with pytest.raises(UsageError, match="forked child"):
            here.attach_in_child()
        with forked(lambda: here.predict(mlp.feed)) as child:
            assert ForkedError.__name__ in child.go().result()
        with forked(here.attach_in_child) as child:
            assert NotAllowedError.__name__ in child.go().result()
        assert here.predict(mlp.feed)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_child_that_is_allowed_attaches_itself_and_answers_right(
    served: Daemon, mlp: Pair, threads: int
) -> None:
    live = served.client.status().models["mlp"].live
    with served.attach_here("mlp", threads=threads) as here:
        expected = mlp.number_of(here.predict(mlp.feed))
        with forked(lambda: attach_in_child(here, mlp)) as child:
            served.client.allow("mlp", child.pid)
            assert child.go().result() == f"prepacked {expected}"
            leases = {w.pid: (w.version, w.engine) for w in served.client.status().workers}
            assert leases == {os.getpid(): (live, ""), child.pid: (live, "")}
        wait_until(lambda: len(served.client.status().workers) == 1)


def test_children_forked_amid_predictions_and_publishes_answer_one_versions_own_bits(
    served: Daemon, mlp: Pair, files: list[Path]
) -> None:
    turns = iter([files[1], files[0]] * 50)

    def publish() -> None:
        with weightd.Client(served.runtime_dir, timeout_s=20) as client:
            client.publish("mlp", next(turns))

    seen: set[str] = set()
    with served.attach_here("mlp") as here:
        predicted: set[int] = set()
        works = publish, lambda: predicted.add(mlp.number_of(here.predict(mlp.feed)))
        with repeated(*works) as failures:
            for _ in range(8):
                with forked(lambda: attach_in_child(here, mlp)) as child:
                    served.client.allow("mlp", child.pid)
                    seen.add(child.go().result())
            wait_until(lambda: predicted >= {1, 2} or failures)
        assert not failures
        assert predicted == {1, 2}
    assert seen <= {"prepacked 1", "prepacked 2"}


@pytest.mark.parametrize("threads", [0, 2])
def test_a_version_is_freed_when_parent_and_child_have_switched_whoever_predicted_in_the_fork(
    served: Daemon, mlp: Pair, files: list[Path], threads: int
) -> None:
    kept: list[weightd.Attachment] = []

    def follow() -> str:
        kept.append(here.attach_in_child())
        answers = [mlp.number_of(kept[0].predict(mlp.feed))]
        kept[0].wait_for_version(kept[0].version + 1, timeout_s=DEADLINE_S)
        answers.append(mlp.number_of(kept[0].predict(mlp.feed)))
        gc.collect()
        return str(sorted(answers))

    with served.attach_here("mlp") as here:
        before, live = mlp.number_of(here.predict(mlp.feed)), here.version
        with repeated(*[lambda: here.predict(mlp.feed)] * threads), forked(follow) as child:
            served.client.allow("mlp", child.pid)
            child.go()
            wait_until(lambda: len(served.client.status().workers) == 2)
            assert served.client.publish("mlp", files[2 - before]) == live + 1
            assert child.result() == "[1, 2]"
            here.wait_for_version(live + 1, timeout_s=DEADLINE_S)
            wait_until(lambda: served.versions("mlp") == [(live + 1, "LIVE")])
            assert segments_of(child.pid) == {f"/memfd:weightd:mlp.v{live + 1} (deleted)"}


def segments_of(pid: int) -> set[str]:
    """The names of the daemon's memory that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(None, 5)[5] for line in lines if "/memfd:weightd:mlp" in line}
