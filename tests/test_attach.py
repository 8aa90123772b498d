"""Attaching: who may, what it gives, and how it ends."""

import os
import secrets
import signal
import subprocess
import threading
from contextlib import closing

import numpy as np
import pytest

import weightd
from tests.daemons import EARLY, FINAL, Daemon, Worker, running_daemon, running_worker
from tests.helpers import kill_and_reap, wait_until
from tests.raw import refused
from weightd.backends.prepacked.session import PrepackedSession
from weightd.daemon.limits import LEASES_PER_PROCESS
from weightd.daemon.settings import Settings
from weightd.errors import (
    AnswerError,
    BadHandleError,
    DaemonTimeoutError,
    LimitError,
    NotAllowedError,
    UnknownModelError,
)
from weightd.ipc.lease import Lease
from weightd.ipc.status import ModelStatus, WorkerStatus


def lenet_of(daemon: Daemon) -> ModelStatus:
    return daemon.client.status().models["lenet"]


def workers_of(daemon: Daemon) -> dict[int, WorkerStatus]:
    return {worker.pid: worker for worker in daemon.client.status().workers}


def version_of(worker: Worker) -> int:
    return int(worker.ask("state", model="lenet")["version"])


# --- who may -----------------------------------------------------------------------------


def test_an_allowed_worker_predicts_on_the_shared_copy(lenet: Daemon, worker: Worker) -> None:
    assert worker.ask("attach", model="lenet") == {"version": 1, "engine": "prepacked"}
    assert worker.ask("predict", model="lenet")["version"] == 1
    assert [w.pid for w in lenet.client.status().workers] == [worker.pid]


def test_a_worker_that_nobody_allowed_is_told_the_command_that_lets_it_in(lenet: Daemon) -> None:
    with running_worker(lenet) as worker:
        error = refused(worker, "attach", model="lenet")
        assert isinstance(error, NotAllowedError)
        assert f"`weightd allow lenet {worker.pid}`" in str(error)
        assert lenet.client.status().workers == ()


def test_the_handle_of_another_model_opens_nothing(lenet: Daemon, worker: Worker) -> None:
    lenet.load_lenet("other")
    handle = lenet.client.allow("other", worker.pid)
    assert isinstance(refused(worker, "attach", model="lenet", handle=handle), BadHandleError)
    assert worker.ask("attach", model="other", handle=handle)["version"] == 1


def test_a_guessed_handle_opens_nothing_even_to_an_allowed_worker(
    lenet: Daemon, worker: Worker
) -> None:
    for guess in (0, 2**64 - 1, secrets.randbits(64)):
        assert isinstance(refused(worker, "attach", model="lenet", handle=guess), BadHandleError)
    assert lenet.client.status().workers == ()


def test_a_stolen_handle_opens_nothing_to_the_thief(lenet: Daemon, worker: Worker) -> None:
    handle = lenet.client.allow("lenet", worker.pid)
    with running_worker(lenet) as thief:
        assert isinstance(refused(thief, "attach", model="lenet", handle=handle), NotAllowedError)
    assert worker.ask("attach", model="lenet", handle=handle)["version"] == 1


def test_a_revoked_handle_is_dead(lenet: Daemon, worker: Worker) -> None:
    handle = lenet.client.allow("lenet", worker.pid)
    lenet.client.revoke("lenet", worker.pid)
    assert isinstance(refused(worker, "attach", model="lenet", handle=handle), NotAllowedError)
    lenet.client.allow("lenet", worker.pid)  # let in again, the old number stays dead
    assert isinstance(refused(worker, "attach", model="lenet", handle=handle), BadHandleError)


def test_a_handle_of_an_earlier_daemon_is_dead(lenet: Daemon, worker: Worker) -> None:
    handle = lenet.client.allow("lenet", worker.pid)
    assert lenet.stop() == 0
    second = Daemon(Settings(), lenet.folder, lenet.log_path.with_name("log2"))
    try:
        second.load_lenet()
        assert isinstance(refused(worker, "attach", model="lenet", handle=handle), NotAllowedError)
        second.client.allow("lenet", worker.pid)
        assert isinstance(refused(worker, "attach", model="lenet", handle=handle), BadHandleError)
        assert worker.ask("attach", model="lenet")["version"] == 1
    finally:
        second.close()


def test_a_pid_without_a_living_process_cannot_be_allowed(lenet: Daemon) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NotAllowedError, match="has ended"):
            lenet.client.allow("lenet", process.pid)  # a zombie
    with pytest.raises(NotAllowedError, match="no process"):
        lenet.client.allow("lenet", [os.getpid(), process.pid])
    assert lenet_of(lenet).allowed_pids == ()


def test_an_entry_ends_with_its_process(lenet: Daemon, worker: Worker) -> None:
    assert lenet_of(lenet).allowed_pids == (worker.pid,)
    kill_and_reap(worker.process)
    wait_until(lambda: lenet_of(lenet).allowed_pids == ())


def test_an_unknown_model_is_named_to_an_admin(daemon: Daemon) -> None:
    with pytest.raises(UnknownModelError, match="no model 'lenet'"):
        weightd.attach("lenet", runtime_dir=daemon.runtime_dir)


# --- leases ------------------------------------------------------------------------------


def test_a_killed_worker_releases_the_version_it_held(lenet: Daemon, worker: Worker) -> None:
    worker.ask("attach", model="lenet")
    assert lenet.leases() == {1: 1}
    kill_and_reap(worker.process)
    wait_until(lambda: lenet.leases() == {1: 0})
    assert lenet.client.status().workers == ()


def test_close_releases_the_version_before_it_returns(lenet: Daemon) -> None:
    with lenet.attach_here():
        assert lenet.leases() == {1: 1}
    wait_until(lambda: lenet.leases() == {1: 0})


def test_an_array_kept_after_close_keeps_the_lease_until_it_goes(daemon: Daemon) -> None:
    daemon.load_lenet(keep_tensors=True)
    with daemon.attach_here() as model:
        name = next(iter(model.weights))
        array = model.weights[name]
        before = array.copy()
    for file in (EARLY, FINAL):
        daemon.client.publish("lenet", file)
    assert daemon.leases() == {1: 1, 2: 0, 3: 0}
    assert np.array_equal(array, before)
    del array
    wait_until(lambda: daemon.leases() == {2: 0, 3: 0})


def test_an_array_keeps_the_lease_when_the_engine_closes_while_its_state_is_told(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.load_lenet(keep_tensors=True)
    model = daemon.attach_here()
    array = model.weights[next(iter(model.weights))]
    is_asked = threading.Event()

    def note_once_closed(session: PrepackedSession) -> str:
        is_asked.set()
        wait_until(lambda: model.running is None)
        return session.engine  # as the note: says that it was closed

    monkeypatch.setattr(PrepackedSession, "note", property(note_once_closed))
    daemon.client.publish("lenet", EARLY)
    assert is_asked.wait(10)
    model.close()
    daemon.client.publish("lenet", FINAL)
    assert daemon.leases() == {1: 1, 2: 0, 3: 0}
    del array
    wait_until(lambda: daemon.leases() == {2: 0, 3: 0})


def test_a_process_has_a_bounded_number_of_leases_of_a_model(lenet: Daemon) -> None:
    models = [lenet.attach_here() for _ in range(LEASES_PER_PROCESS)]
    with pytest.raises(LimitError, match=f"has {LEASES_PER_PROCESS} leases"):
        weightd.attach("lenet", runtime_dir=lenet.runtime_dir)
    models.pop().close()
    wait_until(lambda: len(lenet.client.status().workers) == LEASES_PER_PROCESS - 1)
    models.append(lenet.attach_here())
    for model in models:
        model.close()


def test_a_lease_that_was_given_back_is_not_counted_when_the_next_one_is_asked_for(
    lenet: Daemon,
) -> None:
    lenet.client.allow("lenet", lenet.client.current_pid())
    for _ in range(10 * LEASES_PER_PROCESS):
        with closing(Lease(lenet.folder, timeout_s=10)) as lease:
            lease.attach("lenet", None).close()


def test_the_processes_of_a_user_have_a_bounded_number_of_leases() -> None:
    with running_daemon(leases_per_uid=2) as daemon:
        daemon.load_lenet()
        daemon.load_lenet("other")
        with daemon.attach_here(), daemon.attach_here("other"), running_worker(daemon) as worker:
            daemon.client.allow("lenet", worker.pid)
            error = refused(worker, "attach", model="lenet")
            assert isinstance(error, LimitError)
            assert "leases_per_uid" in str(error)


# --- revoke and unload -------------------------------------------------------------------


def test_a_revoked_worker_goes_on_with_what_it_has_and_gets_nothing_new(
    lenet: Daemon, worker: Worker
) -> None:
    worker.ask("attach", model="lenet")
    before = worker.ask("predict", model="lenet")["digests"]
    assert lenet.client.revoke("lenet").still_mapped == (worker.pid,)
    wait_until(lambda: "revoked" in worker.ask("state", model="lenet")["lag"])
    lenet.client.publish("lenet", EARLY)
    assert isinstance(refused(worker, "attach", model="lenet"), NotAllowedError)
    assert worker.ask("predict", model="lenet") == {"digests": before, "version": 1}
    assert workers_of(lenet)[worker.pid].lag == "revoked"
    assert lenet.leases() == {1: 1, 2: 0}


def test_revoking_one_worker_leaves_the_others_alone(lenet: Daemon, worker: Worker) -> None:
    worker.ask("attach", model="lenet")
    with lenet.attach_here() as model:
        lenet.client.revoke("lenet", worker.pid)
        lenet.client.publish("lenet", EARLY)
        model.wait_for_version(2, timeout_s=10)
    assert version_of(worker) == 1


def test_revoke_with_kill_ends_the_process(lenet: Daemon, worker: Worker) -> None:
    worker.ask("attach", model="lenet")
    answer = lenet.client.revoke("lenet", worker.pid, kill=True)
    assert (answer.killed, answer.still_mapped, answer.not_killed) == ((worker.pid,), (), ())
    assert worker.process.wait(10) == -signal.SIGKILL
    wait_until(lambda: lenet.leases() == {1: 0})


def test_an_unloaded_model_stays_with_the_workers_that_have_it(
    lenet: Daemon, worker: Worker
) -> None:
    worker.ask("attach", model="lenet")
    before = worker.ask("predict", model="lenet")
    lenet.client.unload("lenet")
    assert isinstance(refused(worker, "attach", model="lenet"), UnknownModelError)
    wait_until(lambda: "unloaded" in worker.ask("state", model="lenet")["lag"])
    assert worker.ask("predict", model="lenet") == before
    assert lenet.client.status().held_nbytes > 0
    lenet.load_lenet()  # the name is free; the new model is another one
    assert lenet.leases() == {1: 0}
    kill_and_reap(worker.process)
    lenet.client.unload("lenet")
    wait_until(lambda: lenet.client.status().held_nbytes == 0)


# --- versions are pulled -----------------------------------------------------------------


def test_a_stopped_worker_pins_one_version_while_the_others_switch(
    lenet: Daemon, worker: Worker
) -> None:
    worker.ask("attach", model="lenet")
    os.kill(worker.pid, signal.SIGSTOP)
    with lenet.attach_here() as model:
        for round_ in range(5):
            lenet.client.publish("lenet", (EARLY, FINAL)[round_ % 2])
            for _ in range(4):
                model.wait_for_version(lenet.client.rollback("lenet"), timeout_s=10)
        assert len(lenet.leases()) <= 3  # keep, and the one that the stopped worker maps
        assert lenet.leases()[1] == 1
        assert workers_of(lenet)[worker.pid].lag == "notified"
    live = lenet_of(lenet).live
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.ask("wait_for_version", model="lenet", number=live)["version"] == live
    wait_until(lambda: 1 not in lenet.leases())


def test_who_waits_for_a_version_hears_at_once_that_it_will_not_come(
    lenet: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> float:
        raise AnswerError("it says something else")

    with lenet.attach_here() as here:
        monkeypatch.setattr(here._session, "swap", fail)
        lenet.client.publish("lenet", EARLY)
        with pytest.raises(DaemonTimeoutError, match="stays on 1: it says something else"):
            here.wait_until_at_least(2, timeout_s=600)
        monkeypatch.undo()
        lenet.client.publish("lenet", FINAL)
        here.wait_for_version(3, timeout_s=10)
        here.wait_until_at_least(2, timeout_s=600)  # it was passed over


def test_who_waits_for_a_version_hears_at_once_that_the_daemon_has_ended(lenet: Daemon) -> None:
    with lenet.attach_here() as here:
        lenet.stop(signal.SIGKILL)
        with pytest.raises(DaemonTimeoutError, match="stays on 1"):
            here.wait_until_at_least(2, timeout_s=600)


def test_a_worker_that_slept_through_a_rollback_still_holds_what_it_runs(
    lenet: Daemon, worker: Worker
) -> None:
    """It pulls the version that it has already: two mappings, one of which goes at once."""
    worker.ask("attach", model="lenet")
    os.kill(worker.pid, signal.SIGSTOP)
    lenet.client.publish("lenet", EARLY)
    lenet.client.rollback("lenet")
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: workers_of(lenet)[worker.pid].switches == 1)
    assert version_of(worker) == 1
    assert lenet.leases() == {1: 1, 2: 0}
    for file in (FINAL, EARLY):  # each switch releases what came before, once
        number = lenet.client.publish("lenet", file)
        assert worker.ask("wait_for_version", model="lenet", number=number)["connected"]
        wait_until(lambda: sum(lenet.leases().values()) == 1)
        assert lenet.leases()[number] == 1
