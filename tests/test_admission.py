"""Who may attach beyond PIDs: real users, groups and units at a real daemon; what ends a right."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weightd
from tests.daemons import EARLY, FINAL, LENET, Daemon, Worker, running_daemon, running_worker
from tests.helpers import wait_until
from tests.raw import daemon_unharmed, refused
from tests.test_identity import as_user
from weightd.daemon.audit import LINES
from weightd.daemon.settings import ModelSettings
from weightd.errors import (
    BadHandleError,
    LimitError,
    NotAllowedError,
    RefusedError,
    RoleError,
    SettingsError,
    UnknownModelError,
)

ALICE, BOB, MALLORY = 1000, 1001, 1002
ML, OPS = 100, 27  # groups
CGROUPS = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")]
SLICE = f"weightdtest{os.getpid()}.slice"  # other runs of these tests have theirs
UNIT = "weightd-inference@1.service"

pytestmark = pytest.mark.root


def user(uid: int, *gids: int) -> tuple[str, ...]:
    *start, _ = as_user(uid)
    return (*start, f"{uid}:{','.join(map(str, gids))}")


@contextlib.contextmanager
def raw_worker(daemon: Daemon, uid: int, *gids: int) -> Iterator[Worker]:
    with running_worker(daemon, script="raw_worker.py", prefix=user(uid, *gids)) as worker:
        yield worker


def attaches(worker: Worker, model: str = "lenet") -> bool:
    """Whether it is let in; a refusal must be the right one."""
    answer = worker.ask("connect_and_attach", model=model)
    assert "heard" in answer or answer["error"][0] == "NotAllowedError", answer
    return "heard" in answer


@pytest.fixture(scope="module")
def public() -> Iterator[Daemon]:
    with running_daemon(attach_public=True) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        daemon.load_lenet()
        yield daemon


@pytest.fixture
def lenet(public: Daemon) -> Iterator[Daemon]:
    """A daemon with lenet, that other users reach; without rules again when the test has ended."""
    with daemon_unharmed(public):
        yield public
        model = public.client.status().models["lenet"]
        public.client.revoke("lenet")
        if model.deny:
            public.client.deny("lenet", model.deny, lift=True)
        wait_until(lambda: public.client.status().workers == ())


@pytest.fixture
def alice(lenet: Daemon) -> Iterator[Worker]:
    with raw_worker(lenet, ALICE) as worker:
        yield worker


# --- users and groups --------------------------------------------------------------------


def test_whoever_a_rule_fits_attaches_without_a_handle_and_nobody_else(lenet: Daemon) -> None:
    assert lenet.client.allow_rules("lenet", f"uid:{ALICE}") == ()
    with running_worker(lenet, prefix=user(ALICE)) as alice, raw_worker(lenet, BOB) as bob:
        assert alice.ask("attach", model="lenet")["version"] == 1
        assert alice.ask("predict", model="lenet")["version"] == 1
        assert not attaches(bob)
        [worker] = lenet.client.status().workers
        assert (worker.uid, worker.by) == (ALICE, f"uid:{ALICE}")
        error = refused(alice, "attach", model="lenet", handle=7)  # somebody else's
        assert isinstance(error, BadHandleError)


def test_a_rule_for_a_group_goes_by_all_groups_that_the_kernel_tells(lenet: Daemon) -> None:
    lenet.client.allow_rules("lenet", [f"gid:{ML}"])
    with raw_worker(lenet, BOB, OPS, ML) as member, raw_worker(lenet, MALLORY, OPS) as other:
        assert attaches(member)
        assert not attaches(other)


def test_a_stranger_hears_the_same_of_a_model_with_rules_and_of_none(
    lenet: Daemon, alice: Worker
) -> None:
    lenet.client.allow_rules("lenet", f"uid:{BOB}")
    lenet.client.deny("lenet", f"uid:{ALICE}")
    heard = [alice.ask("connect_and_attach", model=model)["error"] for model in ("lenet", "lenex")]
    assert heard[0] == [word.replace("lenex", "lenet") for word in heard[1]]


def test_deny_wins_over_rules_and_over_a_pid(lenet: Daemon, alice: Worker) -> None:
    handle = lenet.client.allow("lenet", alice.ask("current_pid")["pid"])
    lenet.client.allow_rules("lenet", [f"uid:{ALICE}", f"gid:{ALICE}"])
    lenet.client.deny("lenet", f"uid:{ALICE}")
    assert handle > 0
    assert not attaches(alice)
    lenet.client.deny("lenet", f"uid:{ALICE}", lift=True)
    assert attaches(alice)


def test_a_rule_that_denies_ends_the_leases_that_it_fits_as_revoke_does(
    lenet: Daemon, alice: Worker
) -> None:
    lenet.client.allow_rules("lenet", [f"uid:{ALICE}", f"gid:{ML}"])
    with raw_worker(lenet, BOB, ML) as bob:
        assert attaches(alice)
        assert attaches(bob)
        before = lenet.versions()
        revoked = lenet.client.deny("lenet", f"uid:{ALICE}")
        assert revoked.pids == revoked.still_mapped == (alice.pid,)
        assert alice.ask("hear") == {"heard": "Revocation"}
        assert alice.ask("pull")["error"][0] == "NotAllowedError"
        assert bob.ask("pull") == {"heard": "Granted"}
        assert lenet.versions() == before


def test_a_rule_that_is_taken_back_ends_whom_nothing_else_lets_in(
    lenet: Daemon, alice: Worker
) -> None:
    lenet.client.allow_rules("lenet", [f"uid:{ALICE}", f"gid:{ML}"])
    with raw_worker(lenet, ALICE, ML) as member:
        assert attaches(alice)
        assert attaches(member)
        revoked = lenet.client.revoke("lenet", rules=f"uid:{ALICE}")
        assert (revoked.pids, revoked.rules) == ((alice.pid,), (f"uid:{ALICE}",))
        assert not attaches(alice)
        by = {worker.pid: worker.by for worker in lenet.client.status().workers}
        assert by[member.pid] == f"gid:{ML}"


def test_revoking_everybody_takes_the_rules_back_too(lenet: Daemon, alice: Worker) -> None:
    lenet.client.allow_rules("lenet", f"uid:{ALICE}")
    assert attaches(alice)
    revoked = lenet.client.revoke("lenet", kill=True)
    assert revoked.killed == (alice.pid,)
    assert revoked.rules == (f"uid:{ALICE}",)
    assert lenet.client.status().models["lenet"].allow == ()
    assert alice.process.wait(10) == -signal.SIGKILL


def test_a_lease_by_a_rule_ends_with_its_process_though_a_child_holds_the_connection(
    lenet: Daemon, alice: Worker
) -> None:
    lenet.client.allow_rules("lenet", f"uid:{ALICE}")
    assert attaches(alice)
    child = alice.ask("in_child", what="nothing")["child"]
    alice.process.kill()
    alice.process.wait(10)
    os.kill(child, 0)
    wait_until(lambda: lenet.client.status().workers == ())


def test_a_rule_for_nobody_or_no_model_is_refused(lenet: Daemon) -> None:
    with pytest.raises(SettingsError, match="no user 'no-such-user'"):
        lenet.client.allow_rules("lenet", "user:no-such-user")
    with pytest.raises(UnknownModelError):
        lenet.client.allow_rules("bert", "uid:1")
    with pytest.raises(RefusedError, match="at least one rule"):
        lenet.client.deny("lenet", ())


# --- units -------------------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[Path]:
    """A cgroup such as systemd makes for a service, gone at the end."""
    unit = next(filter(_is_made, (root / SLICE / UNIT for root in CGROUPS)), None)
    if unit is None:
        pytest.skip("no cgroup can be made here")
    yield unit
    wait_until(lambda: not (unit / "cgroup.procs").read_text())
    unit.rmdir()
    unit.parent.rmdir()


def _is_made(unit: Path) -> bool:
    try:
        unit.mkdir(parents=True)
    except OSError:
        return False
    return True


def test_a_rule_for_a_unit_goes_by_the_cgroup(lenet: Daemon, alice: Worker, service: Path) -> None:
    lenet.client.allow_rules("lenet", "unit:weightd-inference@*.service")
    try:
        assert not attaches(alice)
        (service / "cgroup.procs").write_text(str(alice.pid))
        assert attaches(alice)
        [worker] = lenet.client.status().workers
        assert worker.by == "unit:weightd-inference@*.service"
        assert lenet.client.deny("lenet", "unit:weightd-*").pids == (alice.pid,)
    finally:
        alice.process.kill()
        alice.process.wait(10)


# --- settings ----------------------------------------------------------------------------


def test_rules_of_the_settings_hold_from_the_start_and_are_changed_there_alone() -> None:
    models = {"lenet": ModelSettings(str(LENET), (f"uid:{ALICE}", f"uid:{MALLORY}"), ())}
    with running_daemon(attach_public=True, models=models, deny=(f"uid:{MALLORY}",)) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        wait_until(lambda: "lenet" in daemon.client.status().models)
        with raw_worker(daemon, ALICE) as alice, raw_worker(daemon, MALLORY) as mallory:
            assert attaches(alice)
            assert not attaches(mallory)
            status = daemon.client.status()
            assert status.deny == status.models["lenet"].deny == (f"uid:{MALLORY}",)
            with pytest.raises(RefusedError, match="stands in the settings"):
                daemon.client.revoke("lenet", rules=f"uid:{ALICE}")
            with pytest.raises(RefusedError, match="stands in the settings"):
                daemon.client.deny("lenet", f"uid:{MALLORY}", lift=True)
            assert daemon.client.deny("lenet", f"uid:{ALICE}").pids == (alice.pid,)


def test_a_rule_for_others_at_a_private_daemon_is_answered_with_what_is_missing() -> None:
    with running_daemon() as daemon:
        daemon.load_lenet()
        [note] = daemon.client.allow_rules("lenet", f"uid:{ALICE}")
        assert "attach_public is off" in note
        assert daemon.client.status().notes == (note,)
        daemon.client.revoke("lenet", rules=f"uid:{ALICE}")
        assert daemon.client.allow_rules("lenet", f"uid:{os.geteuid()}") == ()
        assert daemon.client.status().notes == ()
        with weightd.attach("lenet", runtime_dir=daemon.runtime_dir) as model:
            assert model.version == 1


# --- roles -------------------------------------------------------------------------------


def test_a_group_reaches_the_control_socket_and_its_members_may_what_their_role_says() -> None:
    settings: dict[str, Any] = {"control_group": "users", "admins": ("@sudo",)}
    with running_daemon(staged_nbytes_per_uid=8192, **settings) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        daemon.load_lenet()
        script = "intruder.py"
        with running_worker(daemon, script=script, prefix=user(ALICE, ML)) as alice:
            assert alice.ask("status") == {}
            assert isinstance(refused(alice, "allow"), RoleError)
            assert isinstance(refused(alice, "shutdown"), RoleError)
            assert alice.ask("load") == {}
            assert daemon.client.status().models["mine"].owner_uid == ALICE
            error = refused(alice, "load_more")
            assert isinstance(error, LimitError)
            assert f"uid {ALICE}" in str(error)
            assert alice.ask("unload") == {}
            assert alice.ask("load_more") == {}
        with running_worker(daemon, script=script, prefix=user(BOB)) as bob:
            assert "belongs to another user" in str(refused(bob, "status"))
        assert daemon.stop() == 0
        assert f"what=load outcome=done pid={alice.pid} uid={ALICE} model=mine" in daemon.log()
        assert f"what=shutdown outcome=refused pid={alice.pid} uid={ALICE}" in daemon.log()


# --- limits and the record ---------------------------------------------------------------


def test_a_flood_of_refusals_is_told_in_few_lines() -> None:
    with running_daemon(attach_public=True) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        daemon.load_lenet()
        with raw_worker(daemon, ALICE) as alice:
            for _ in range(10 * LINES):
                assert not attaches(alice)
        assert daemon.stop() == 0
        told = [line for line in daemon.log().splitlines() if f"uid={ALICE}" in line]
        assert len(told) == LINES + 1
        assert f"what=attach outcome=refused uid={ALICE} more={9 * LINES}" in told[-1]
        assert 'model=lenet reason="NotAllowedError: nothing lets it in"' in told[0]
        mine = [line for line in daemon.log().splitlines() if str(alice.pid) in line]
        assert len(mine) == LINES  # nothing else is written for each


def test_who_asks_too_often_is_refused_and_others_are_served() -> None:
    with running_daemon(attach_public=True, requests_per_s_per_uid=20) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        daemon.load_lenet()
        with raw_worker(daemon, ALICE) as alice:
            wait_until(lambda: alice.ask("current_pid").get("error", [""])[0] == "LimitError")
            with daemon.attach_here() as model:
                assert model.version == 1
            assert f'uid={ALICE} reason="LimitError: the processes of uid {ALICE}' in daemon.log()


def test_versions_that_stuck_workers_hold_are_refused_a_successor_not_memory() -> None:
    with running_daemon(keep=1, versions_held=2) as daemon:
        daemon.load_lenet()
        with running_worker(daemon) as stuck:
            daemon.client.allow("lenet", stuck.pid)
            stuck.ask("attach", model="lenet")
            stuck.process.send_signal(signal.SIGSTOP)
            daemon.client.publish("lenet", EARLY)
            with daemon.attach_here():
                with pytest.raises(LimitError, match=f"process {stuck.pid} holds 1"):
                    daemon.client.publish("lenet", FINAL)
                assert daemon.versions() == [(1, "HELD"), (2, "LIVE")]
                daemon.client.revoke("lenet", stuck.pid, kill=True)
                wait_until(lambda: daemon.versions() == [(2, "LIVE")])
                assert daemon.client.publish("lenet", FINAL) == 3


def test_nobody_is_turned_away_on_the_record(lenet: Daemon) -> None:
    with raw_worker(lenet, 65534) as nobody:
        assert isinstance(refused(nobody, "current_pid"), NotAllowedError)
    assert f"what=connect outcome=refused pid={nobody.pid} uid=65534" in lenet.log()
