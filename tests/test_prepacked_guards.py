"""Packed weights that fail a check do not run: another engine does and says why, or nobody does."""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import weightd
from tests import nets
from tests.daemons import WORKERS, Daemon, running_daemon
from tests.helpers import wait_until
from tests.pairs import Pair, core_of, entry_named, paired
from tests.versions import built
from tests.zoo import seeds
from weightd.backends import answer as reference
from weightd.backends import onnxruntime, optimised
from weightd.backends.answer import Answer
from weightd.backends.prepacked.core import Core
from weightd.errors import AnswerError, EngineMismatchError, WeightdError
from weightd.ipc.protocol import Event
from weightd.weights.arrays import Array

MLP = entry_named("mlp")
OTHER_ENGINE = {"onnxruntime": "0.0.0", "cpu": "x86_64-0"}
Sabotage = Callable[[Callable[[Core], bool]], None]  # of the checks of which it says so


@pytest.fixture(scope="module")
def mlp() -> Iterator[Pair]:
    with paired(MLP) as pair:
        yield pair


@pytest.fixture(scope="module")
def kept() -> Iterator[Pair]:
    """With the original tensors, so that the plain engine can take over."""
    with paired(MLP, keep_tensors=True) as pair:
        yield pair


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Sabotage:
    """Makes the check of each core fail of which `is_wrong` says so."""
    honest = Core.check

    def use(is_wrong: Callable[[Core], bool]) -> None:
        def check(core: Core) -> None:
            if is_wrong(core):
                raise AnswerError("sabotaged")
            honest(core)

        monkeypatch.setattr(Core, "check", check)

    return use


def assert_is_close(pair: Pair, number: int, found: Mapping[str, Array]) -> None:
    reference.check(found, Answer(pair.feed, pair.answers[number - 1], is_exact=False))


# --- the stamp ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["onnxruntime", "cpu"])
def test_a_version_of_another_engine_or_cpu_runs_by_the_plain_engine(
    kept: Pair, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = onnxruntime.stamp()
    monkeypatch.setattr(onnxruntime, "stamp", lambda: {**here, key: OTHER_ENGINE[key]})
    session = kept.open(1)
    assert session.engine == "plain"
    for text in (f"compiled for {key} {here[key]}", f"this process has {OTHER_ENGINE[key]}"):
        assert text in session.note
    for number in (1, 2):
        session.swap(kept.map(number))
        assert_is_close(kept, number, session.run(kept.feed))
    session.close()


def test_a_version_of_another_engine_without_its_tensors_is_refused_and_says_what_to_do(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "stamp", lambda: OTHER_ENGINE)
    with pytest.raises(EngineMismatchError, match=r"has 0\.0\.0.*--keep-tensors"):
        mlp.open(1)


def test_a_session_whose_next_version_is_of_another_engine_stays_on_the_old_one(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = mlp.open_packed(1)
    monkeypatch.setattr(onnxruntime, "stamp", lambda: OTHER_ENGINE)
    monkeypatch.setattr(Core, "takes", lambda *_: False)
    with pytest.raises(EngineMismatchError, match="--keep-tensors"):
        session.swap(mlp.map(2))
    assert mlp.run(session) == 1
    session.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the two versions' files, and the first as a model that kept its tensors."""
    folder = tmp_path_factory.mktemp("guards")
    with running_daemon() as daemon:
        daemon.client.load("kept", nets.saved(seeds(MLP)[0], folder / "a.onnx"), keep_tensors=True)
        yield daemon


def test_the_daemon_hears_of_a_worker_that_fell_back_and_why(
    served: Daemon, kept: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "stamp", lambda: OTHER_ENGINE)
    seen: list[Event] = []
    thread = threading.Thread(target=listen, args=(served, seen))
    thread.start()
    wait_until(lambda: served.client.allow("kept", os.getpid()) and seen)
    with served.attach_here("kept") as here:
        assert here.engine == "plain"
        assert "compiled for onnxruntime" in here.engine_note
        assert_is_close(kept, 1, here.predict(kept.feed))
        wait_until(lambda: [w.engine for w in served.client.status().workers] == ["plain"])
        (worker,) = served.client.status().workers
        assert worker.note == here.engine_note
        assert served.client.status().models["kept"].engine == "prepacked"
        text = f"to plain: {here.engine_note}"
    thread.join(20)
    assert Event("fell-back", "kept", 1, os.getpid(), text) in seen
    assert f"fell-back kept version 1 pid {os.getpid()} {text}" in served.log()


def listen(daemon: Daemon, seen: list[Event]) -> None:
    """Collect events until somebody detaches."""
    with weightd.Client(daemon.runtime_dir) as client:
        events = client.events("kept")
        for event in events:
            seen.append(event)
            if event.what == "detached":
                break
        events.close()  # type: ignore[attr-defined]  # a generator


# --- the reference answer, in the stager -------------------------------------------------


def falsify(patch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """The reference answers of these numbers, counted from 1, are wrong. One is taken for each
    engine that is tried."""
    honest, asked = reference.ask, itertools.count(1)

    def ask(*arguments: Any) -> Answer:
        found = honest(*arguments)
        if next(asked) not in numbers:
            return found
        return found._replace(outputs={name: a + 1 for name, a in found.outputs.items()})

    patch.setattr(optimised, "ask", ask)


def test_a_version_whose_packed_weights_answer_wrong_is_compiled_for_the_plain_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    falsify(monkeypatch, {1})
    with built(seeds(MLP)[0]) as version:
        manifest = version.map().manifest
        assert manifest.stamp["engine"] == "plain"
        note = manifest.stamp["note"]
        assert note.startswith("not prepacked: output 'y' is not that of a private session")


def test_packed_weights_that_were_asked_for_and_answer_wrong_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    falsify(monkeypatch, {1})
    with (
        pytest.raises(AnswerError, match="output 'y' is not that of a private session"),
        built(seeds(MLP)[0], engine="prepacked"),
    ):
        pass


def test_a_version_that_answers_wrong_by_every_engine_is_refused_and_the_live_one_is_unharmed(
    mlp: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = mlp.open_packed(1)
    falsify(monkeypatch, {1, 2})
    refused = built(seeds(MLP)[1], live=mlp.versions[0])
    with pytest.raises(AnswerError, match="output 'y'"), refused:
        pass
    assert mlp.run(session) == 1
    with built(seeds(MLP)[1], live=mlp.versions[0]) as version:
        session.swap(version.map())
    assert mlp.run(session) == 2
    session.close()


def test_a_publish_that_answers_wrong_leaves_the_live_version_and_uses_no_number_up(
    mlp: Pair, tmp_path: Path
) -> None:
    first, second = (
        nets.saved(net, tmp_path / f"{number}.onnx") for number, net in enumerate(seeds(MLP))
    )
    flag = tmp_path / "lie"
    prefix = (sys.executable, str(WORKERS / "saboteur.py"), str(flag))
    with running_daemon(prefix=prefix) as daemon:
        daemon.client.load("mlp", first)
        with daemon.attach_here("mlp") as here:
            flag.write_text("lie")
            with pytest.raises(AnswerError, match="output 'y' is not that of a private session"):
                daemon.client.publish("mlp", second)
            assert daemon.versions("mlp") == [(1, "LIVE")]
            assert mlp.number_of(here.predict(mlp.feed)) == 1
            flag.unlink()
            assert daemon.client.publish("mlp", second) == 2
            here.wait_for_version(2, timeout_s=10)
            assert (here.engine, mlp.number_of(here.predict(mlp.feed))) == ("prepacked", 2)


# --- the reference answer, in a worker ---------------------------------------------------


def test_a_session_whose_first_check_fails_falls_back_before_its_first_answer(
    kept: Pair, checks: Sabotage
) -> None:
    checks(lambda _: True)
    session = kept.open(1)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(session.run, [kept.feed] * 8):
            assert_is_close(kept, 1, found)
    assert (session.engine, session.note) == ("plain", "sabotaged")
    session.close()


def test_a_session_whose_first_check_fails_and_that_cannot_fall_back_never_answers(
    mlp: Pair, checks: Sabotage
) -> None:
    checks(lambda _: True)
    session = mlp.open(1)
    for _ in range(3):
        with pytest.raises(EngineMismatchError, match="sabotaged"):
            session.run(mlp.feed)
    session.close()


def test_an_answer_waits_for_the_first_check(mlp: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, may_check = Core.check, threading.Event()

    def check(core: Core) -> None:
        assert may_check.wait(20)
        honest(core)

    monkeypatch.setattr(Core, "check", check)
    session = mlp.open_packed(1)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(mlp.run(session)))
    thread.start()
    core_of(session).run(mlp.feed)
    assert not answers
    may_check.set()
    thread.join(20)
    assert answers == [1]
    session.close()


def test_a_switch_whose_check_fails_opens_a_new_session_aside(mlp: Pair, checks: Sabotage) -> None:
    session = mlp.open_packed(1)
    core = core_of(session)
    assert mlp.run(session) == 1
    checks(lambda checked: checked is core)
    session.swap(mlp.map(2))
    assert core_of(session) is not core
    assert mlp.run(session) == 2
    session.close()


def test_a_switch_for_which_no_session_answers_right_goes_back_bit_for_bit(
    mlp: Pair, checks: Sabotage
) -> None:
    session = mlp.open_packed(1)
    core = core_of(session)
    assert mlp.run(session) == 1
    checks(lambda checked: checked.version.number == 2)
    for _ in range(2):
        with pytest.raises(WeightdError, match="sabotaged"):
            session.swap(mlp.map(2))
        assert core_of(session) is core
        assert (core.version.number, mlp.run(session)) == (1, 1)
    checks(lambda _: False)
    session.swap(mlp.map(2))
    assert mlp.run(session) == 2
    session.close()


def test_a_worker_whose_switch_fails_stays_and_says_why(
    mlp: Pair, tmp_path: Path, checks: Sabotage
) -> None:
    files = [nets.saved(net, tmp_path / f"{n}.onnx") for n, net in enumerate(seeds(MLP))]
    with running_daemon(keep_tensors_on_demand=False) as daemon:
        daemon.client.load("mlp", files[0])
        with daemon.attach_here("mlp") as here:
            assert mlp.number_of(here.predict(mlp.feed)) == 1
            checks(lambda checked: checked.version.number == 2)
            daemon.client.publish("mlp", files[1])
            wait_until(lambda: [w.lag for w in daemon.client.status().workers] != [""])
            wait_until(lambda: "sabotaged" in daemon.client.status().workers[0].lag)
            assert "sabotaged" in here.lag
            assert (here.version, mlp.number_of(here.predict(mlp.feed))) == (1, 1)
            checks(lambda _: False)
            daemon.client.publish("mlp", files[1])
            here.wait_for_version(3, timeout_s=10)
            assert (here.lag, mlp.number_of(here.predict(mlp.feed))) == ("", 2)
