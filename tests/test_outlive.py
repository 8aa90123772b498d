"""Weights that outlive the daemon: it is killed, stopped and replaced, and nothing is lost, nothing
is read again, and everybody goes on."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightd
from tests.daemons import EARLY, FINAL, LENET, WORKERS, Kept, Worker, kept_daemon, running_worker
from tests.helpers import kill_and_reap, wait_until
from weightd.errors import (
    BrokenPeerError,
    LimitError,
    StoreError,
    UnknownModelError,
)

DYING = ("-P", str(WORKERS / "dying_daemon.py"))


def attached(daemon: Kept, worker: Worker) -> None:
    daemon.client.allow("lenet", worker.pid)
    assert "error" not in worker.ask("attach", model="lenet")


def digest(worker: Worker) -> str:
    (found,) = worker.ask("predict", model="lenet")["digests"]
    return str(found)


def stagings(daemon: Kept) -> int:
    """How many times a file was read, by all daemons so far."""
    return daemon.log().count(": staging ")


def leases(daemon: Kept) -> list[int]:
    return [v.leases for v in daemon.client.status().models["lenet"].versions]


def memfds(pid: int) -> dict[int, str]:
    """What memory of ours a process maps, by inode."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {int(f[4]): f[5] for f in lines if len(f) > 5 and f[5].startswith("/memfd:weightd:")}


# --- a daemon that is killed -------------------------------------------------------------


def test_versions_states_and_numbers_are_the_same_after_a_kill(kept: Kept) -> None:
    before = kept.client.status()
    held = memfds(kept.pid)
    kept.kill()
    after = kept.client.status()
    assert after.pid != before.pid
    assert (after.models, after.incarnation) == (before.models, before.incarnation)
    assert memfds(kept.pid) == held
    assert kept.client.publish("lenet", FINAL) == 3
    assert kept.versions() == [(2, "HELD"), (3, "LIVE")]
    assert kept.client.rollback("lenet") == 2
    assert stagings(kept) == 3


def test_a_worker_predicts_all_the_while_and_gets_the_next_version(kept: Kept) -> None:
    with running_worker(kept) as worker:
        attached(kept, worker)
        answer = digest(worker)
        os.kill(kept.pid, signal.SIGSTOP)  # away, and nobody notices yet
        assert digest(worker) == answer
        before = kept.pid
        os.kill(before, signal.SIGKILL)
        assert digest(worker) == answer
        kept.wait_for_another_than(before)
        wait_until(lambda: [w.pid for w in kept.client.status().workers] == [worker.pid])
        assert [(w.version, w.lag) for w in kept.client.status().workers] == [(2, "")]
        again = {"version": 2, "connected": True, "lag": ""}  # once it has read the daemon's answer
        wait_until(lambda: worker.ask("state", model="lenet") == again)
        kept.client.publish("lenet", FINAL)
        worker.ask("wait_for_version", model="lenet", number=3)
        assert digest(worker) != answer
        wait_until(lambda: leases(kept) == [0, 1])  # the worker tells when it has let go


def test_a_handle_and_the_whitelist_go_on_and_what_was_revoked_stays_so(kept: Kept) -> None:
    with running_worker(kept) as one, running_worker(kept) as two:
        handle = kept.client.allow("lenet", one.pid)
        attached(kept, two)
        kept.client.revoke("lenet", two.pid)
        kept.kill()
        assert kept.client.status().models["lenet"].allowed_pids == (one.pid,)
        assert one.ask("attach", model="lenet", handle=handle)["version"] == 2
        wait_until(lambda: "may not attach" in two.ask("state", model="lenet")["lag"])
        assert digest(two) == digest(one)  # and goes on with what it has
        assert [w.pid for w in kept.client.status().workers] == [one.pid]


def test_a_process_that_ended_meanwhile_is_on_no_list_any_more(kept: Kept) -> None:
    with running_worker(kept) as worker:
        attached(kept, worker)
        os.kill(kept.process.pid, signal.SIGSTOP)  # nobody starts the next one yet
        os.kill(kept.pid, signal.SIGKILL)
    os.kill(kept.process.pid, signal.SIGCONT)
    wait_until(lambda: kept.pid != 0)
    assert kept.client.status().models["lenet"].allowed_pids == ()


def test_a_version_that_only_a_worker_holds_stays_until_it_lets_go(kept: Kept) -> None:
    with running_worker(kept) as worker:
        attached(kept, worker)
        os.kill(worker.pid, signal.SIGSTOP)
        kept.client.publish("lenet", FINAL)
        kept.client.publish("lenet", EARLY)
        assert [number for number, _ in kept.versions()] == [2, 3, 4]
        kept.kill()
        assert [number for number, _ in kept.versions()] == [2, 3, 4]
        os.kill(worker.pid, signal.SIGCONT)
        worker.ask("wait_for_version", model="lenet", number=4)
        wait_until(lambda: [number for number, _ in kept.versions()] == [3, 4])


def test_an_unloaded_model_does_not_come_back(kept: Kept) -> None:
    kept.client.unload("lenet")
    kept.kill()
    assert kept.client.status().models == {}
    with pytest.raises(UnknownModelError):
        kept.client.publish("lenet", FINAL)
    assert kept.load_lenet() == 1


def test_an_update_after_a_kill_finds_the_file_that_the_model_was_made_from(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(LENET.read_bytes())
    with kept_daemon() as kept:
        kept.client.load("lenet", file)
        kept.kill()
        file.unlink()  # the keeper has it open
        name, before = parameter(kept)
        assert kept.client.update("lenet", {name: before + 1}) == 2
        kept.kill()
        name, after = parameter(kept)
        np.testing.assert_array_equal(after, before + 1)


def parameter(kept: Kept) -> tuple[str, Any]:
    """A weight of the live version that can be read as it is."""
    with kept.attach_here() as here:
        name = min(here.weights)
        return name, np.array(here.weights[name])


def commits(kept: Kept) -> int:
    """How often the state was written, as its commit word counts it."""
    for fd in Path(f"/proc/{kept.process.pid}/fd").iterdir():
        if os.readlink(fd).startswith("/memfd:weightd.state"):
            with fd.open("rb") as state:
                return int.from_bytes(state.read(72)[64:], "little")
    raise AssertionError("the keeper has no state")


def test_processes_that_end_together_are_written_down_once(kept: Kept) -> None:
    """The whole state is written each time, and nobody was promised anything."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(20)]
    kept.client.allow("lenet", [process.pid for process in processes])
    before = commits(kept)
    os.kill(kept.pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{kept.pid}/stat").read_text().rpartition(")")[2][1] == "T")
    for process in processes:
        kill_and_reap(process)
    os.kill(kept.pid, signal.SIGCONT)
    wait_until(lambda: kept.client.status().models["lenet"].allowed_pids == ())
    assert commits(kept) == before + 1


# --- clients -----------------------------------------------------------------------------


def test_a_request_is_answered_by_the_next_daemon(kept: Kept) -> None:
    for _ in range(3):
        os.kill(kept.pid, signal.SIGKILL)
        assert sorted(kept.client.status().models) == ["lenet"]
        assert kept.client.current_pid() == os.getpid()


def test_a_publish_that_a_kill_interrupts_is_made_once(kept: Kept) -> None:
    killed = threading.Event()

    def kill_once(_: object) -> None:
        if not killed.is_set():
            killed.set()
            os.kill(kept.pid, signal.SIGKILL)

    assert kept.client.publish("lenet", FINAL, on_progress=kill_once) == 3
    assert killed.is_set()
    assert kept.versions() == [(2, "HELD"), (3, "LIVE")]


def test_without_a_keeper_a_client_hears_at_once_that_the_daemon_is_gone(
    lenet: Any, tmp_path: Path
) -> None:
    with pytest.raises(BrokenPeerError):
        lenet.client.publish("lenet", EARLY, on_progress=lambda _: lenet.stop(signal.SIGKILL))


# --- killed at every step ----------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal() -> Iterator[Kept]:
    """A kept daemon that dies when it is told, with LeNet-5."""
    with kept_daemon(program=DYING) as daemon:
        daemon.load_lenet()
        yield daemon


@pytest.fixture
def dying(mortal: Kept) -> Iterator[Kept]:
    """It, with a client of the test's own, whose sockets go with the test."""
    mortal.client.close()
    mortal.client = weightd.Client(mortal.runtime_dir, timeout_s=20)
    yield mortal
    mortal.client.close()


@pytest.mark.parametrize(
    ("step", "times"),
    [
        ("to the fd store", 7),  # segment, file, folder, barrier; then the old ones are dropped
        ("the state's other slot", 1),
        ("the state's commit word", 1),
        ("a notice", 1),
        ("an event", 2),
        ("a reply", 1),
    ],
)
def test_a_daemon_killed_at_any_step_of_a_publish_loses_and_invents_nothing(
    dying: Kept, step: str, times: int
) -> None:
    order, files = dying.runtime_dir / "die", [EARLY, FINAL]
    with running_worker(dying) as worker:
        attached(dying, worker)
        answers: dict[int, str] = {}
        for taken in range(times):
            wait_until(lambda: len(dying.client.status().workers) == 1)
            number = dying.client.status().models["lenet"].live + 1
            order.write_text(f"{step},{taken}")
            assert dying.client.publish("lenet", files[number % 2]) == number
            wait_until(lambda: not order.exists())
            expected = [(number - 1, "HELD"), (number, "LIVE")]
            wait_until(lambda: dying.versions() == expected)  # noqa: B023
            worker.ask("wait_for_version", model="lenet", number=number)
            assert digest(worker) == answers.setdefault(number % 2, digest(worker))
        assert len(set(answers.values())) == len(answers)


# --- room for the state ------------------------------------------------------------------


def allow_many_units(kept: Kept) -> None:
    for number in range(100):
        kept.client.allow_rules("lenet", f"unit:a-unit-with-a-long-name-{number}.service")


def test_a_state_that_is_nearly_full_refuses_more_and_ends_nobody() -> None:
    program = ("-P", str(WORKERS / "forgetful_daemon.py"))
    with kept_daemon(program=program) as kept:
        kept.load_lenet()
        before = kept.pid
        with pytest.raises(LimitError, match="outgrown"):
            allow_many_units(kept)
        with pytest.raises(LimitError, match="outgrown"):
            kept.client.publish("lenet", FINAL)
        assert kept.pid == before
        kept.client.revoke("lenet")
        kept.client.publish("lenet", FINAL)
        kept.kill()
        assert kept.versions() == [(1, "HELD"), (2, "LIVE")]


# --- a keeper that is killed -------------------------------------------------------------


def test_a_daemon_whose_keeper_was_killed_says_so_and_serves_what_it_has(kept: Kept) -> None:
    with running_worker(kept) as worker:
        attached(kept, worker)
        answer = digest(worker)
        before = kept.client.status()
        kill_and_reap(kept.process)
        wait_until(lambda: not kept.client.status().store)
        status = kept.client.status()
        assert (status.pid, status.models.keys()) == (before.pid, before.models.keys())
        assert status.notes == ("the fd store may be gone: the keeper has ended",)
        assert kept.log().count("ERROR weightd.store: the keeper has ended") == 1
        with pytest.raises(StoreError, match="takes nothing: Connection refused"):
            kept.client.publish("lenet", FINAL)
        assert digest(worker) == answer
        kept.client.shutdown()
    wait_until(lambda: not Path(f"/proc/{before.pid}").exists())
