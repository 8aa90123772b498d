"""Workers that lost the right to a model and have it again; what a revoke leaves standing."""

import os

from tests.daemons import EARLY, LENET, Daemon, Worker, running_daemon
from tests.helpers import wait_until
from weightd.daemon.settings import ModelSettings

OURS = f"uid:{os.getuid()}"


def lag(worker: Worker) -> str:
    return str(worker.ask("state", model="lenet")["lag"])


def revoked(daemon: Daemon, worker: Worker) -> None:
    """It is attached, loses the right, and hears of it."""
    worker.ask("attach", model="lenet")
    daemon.client.revoke("lenet", worker.pid)
    wait_until(lambda: "revoked" in lag(worker))


def follows(daemon: Daemon, worker: Worker) -> bool:
    number = daemon.client.publish("lenet", EARLY)
    told = worker.ask("wait_for_version", model="lenet", number=number)
    return bool(told["version"] == number and not told["lag"])


def test_a_revoked_worker_that_is_allowed_again_follows_again(
    lenet: Daemon, worker: Worker
) -> None:
    revoked(lenet, worker)
    live = lenet.client.publish("lenet", EARLY)
    lenet.client.allow("lenet", worker.pid)
    assert worker.ask("wait_for_version", model="lenet", number=live)["lag"] == ""
    assert follows(lenet, worker)


def test_a_revoked_worker_that_a_new_rule_fits_follows_again(lenet: Daemon, worker: Worker) -> None:
    revoked(lenet, worker)
    lenet.client.allow_rules("lenet", OURS)
    assert follows(lenet, worker)
    wait_until(lambda: [(w.by, w.lag) for w in lenet.client.status().workers] == [(OURS, "")])


def test_a_worker_whose_denial_is_lifted_follows_again(lenet: Daemon, worker: Worker) -> None:
    worker.ask("attach", model="lenet")
    lenet.client.deny("lenet", OURS)
    wait_until(lambda: "let it in no more" in lag(worker))
    lenet.client.deny("lenet", OURS, lift=True)
    assert follows(lenet, worker)


def test_a_revoked_worker_stays_so_when_others_are_allowed(lenet: Daemon, worker: Worker) -> None:
    lenet.client.allow_rules("lenet", OURS)
    revoked(lenet, worker)
    lenet.client.allow("lenet", os.getpid())
    lenet.client.allow_rules("lenet", "unit:other.service")
    lenet.client.publish("lenet", EARLY)
    (seen,) = lenet.client.status().workers
    assert (seen.version, seen.lag) == (1, "revoked")


def test_a_revoke_names_the_rules_that_let_in_again_whom_it_revoked(
    lenet: Daemon, worker: Worker
) -> None:
    lenet.client.allow_rules("lenet", [OURS, "unit:other.service"])
    worker.ask("attach", model="lenet")
    assert lenet.client.revoke("lenet", worker.pid).standing == (OURS,)
    everybodys = lenet.client.revoke("lenet")
    assert everybodys.rules == (OURS, "unit:other.service")
    assert everybodys.standing == ()


def test_a_revoke_names_the_rules_that_stand_in_the_settings() -> None:
    models = {"lenet": ModelSettings(str(LENET), (OURS,), ())}
    with running_daemon(models=models) as daemon:
        wait_until(lambda: "lenet" in daemon.client.status().models)
        daemon.client.allow_rules("lenet", OURS)
        assert daemon.client.status().models["lenet"].allow == (OURS,)
        told = daemon.client.revoke("lenet")
        assert (told.rules, told.standing) == ((OURS,), (OURS,))
