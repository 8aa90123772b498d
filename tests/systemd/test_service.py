"""The service on a machine that runs the real systemd: a worker of another user predicts all the
time, whatever happens to the daemon."""

import json
import re

from tests.helpers import wait_until
from tests.systemd.conftest import CONFIG, OPERATOR, STRANGER
from tests.systemd.machine import EARLY, FINAL, SOCKETS, WEIGHTD, Machine, Service


def versions(machine: Machine) -> list[tuple[int, str]]:
    """Of the model: each version that is held, and its state."""
    model = machine.status()["models"]["lenet"]
    return [(version["number"], version["state"]) for version in model["versions"]]


def test_a_request_starts_the_daemon(service: Machine) -> None:
    assert service.shown("ActiveState") == "inactive"
    assert service.status()["models"] == {}
    assert service.shown("ActiveState") == "active"
    assert service.daemon == service.status()["pid"]
    assert service.shown("StatusText") != ""


def test_a_model_compiles_and_serves_under_all_the_restrictions(
    service: Machine, worker: Service
) -> None:
    model = service.status()["models"]["lenet"]
    assert (model["engine"], model["note"]) == ("prepacked", "")
    wait_until(lambda: worker.ask("report")["count"] > 100)
    assert worker.ask("report")["failed"] == []


def test_what_is_held_is_compared_with_its_digests_under_them_too(
    service: Machine, worker: Service
) -> None:
    found = json.loads(service.out(WEIGHTD, "verify", "lenet", "--json"))
    assert {version["verdict"] for version in found["versions"]} == {"sound"}
    assert "not permitted" not in service.journal()


def test_the_daemon_has_no_rights_and_is_hard_to_kill(service: Machine, worker: Service) -> None:
    status = service.out("cat", f"/proc/{service.daemon}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] == service.out("id", "--user", "weightd")
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert service.shown("OOMScoreAdjust") == "-900"  # where the kernel lets it: containers may not


def test_only_the_group_reaches_the_sockets_of_owners(service: Machine, worker: Service) -> None:
    assert service.run(WEIGHTD, "status", user=OPERATOR).returncode == 0
    refused = service.run(WEIGHTD, "status", user=STRANGER, succeeds=False)
    assert refused.returncode == 2
    modes = service.out("sh", "-c", "stat --format='%n %a %U %G' /run/weightd/*.sock")
    assert [line.rpartition("/")[2] for line in modes.splitlines()] == [
        "admin.sock 660 root weightd",
        "attach.sock 666 root root",
        "control.sock 660 root weightd",
        "events.sock 660 root weightd",
    ]


def test_a_killed_daemon_comes_back_with_all_that_it_held(unharmed: Machine) -> None:
    held, killed = versions(unharmed), unharmed.daemon
    unharmed.signal("KILL")
    wait_until(lambda: unharmed.daemon not in (0, killed))
    assert versions(unharmed) == held


def test_a_daemon_that_hangs_is_killed_and_started_again(unharmed: Machine) -> None:
    held, hung = versions(unharmed), unharmed.daemon
    unharmed.signal("STOP")
    wait_until(lambda: unharmed.daemon not in (0, hung), timeout_s=20)
    assert versions(unharmed) == held
    assert "Watchdog timeout" in unharmed.journal()


def test_a_restart_keeps_all_that_it_held(unharmed: Machine) -> None:
    held, restarted = versions(unharmed), unharmed.daemon
    unharmed.systemctl("restart", "weightd")
    assert unharmed.daemon != restarted
    assert versions(unharmed) == held


def test_what_was_held_waits_while_the_service_is_stopped(
    unharmed: Machine, worker: Service
) -> None:
    held = versions(unharmed)
    unharmed.systemctl("stop", "weightd.service", *SOCKETS)
    assert unharmed.shown("SubState") == "dead-resources-pinned"
    assert int(unharmed.shown("NFileDescriptorStore")) > 0
    asked = worker.ask("report")["count"]
    wait_until(lambda: worker.ask("report")["count"] > asked + 100)
    unharmed.systemctl("start", "weightd")
    assert versions(unharmed) == held


def test_a_worker_starts_a_daemon_that_was_stopped(unharmed: Machine) -> None:
    held, stopped = versions(unharmed), unharmed.daemon
    unharmed.systemctl("stop", "weightd")  # but not its sockets, where the worker comes to
    wait_until(lambda: unharmed.daemon not in (0, stopped))
    assert versions(unharmed) == held


def test_a_reload_applies_new_settings_to_the_same_daemon(unharmed: Machine, settings: str) -> None:
    daemon = unharmed.daemon
    for line, budget in (('memory_budget = "3GiB"', 3 * 2**30), ("", None)):
        unharmed.write(CONFIG, f"{line}\n{settings}")
        unharmed.systemctl("reload", "weightd")
        assert unharmed.status()["budget_nbytes"] == budget
    assert unharmed.daemon == daemon


def test_a_reload_with_a_mistake_leaves_the_daemon_as_it_is(
    unharmed: Machine, settings: str
) -> None:
    daemon = unharmed.daemon
    unharmed.write(CONFIG, f"kepp = 2\n{settings}")
    unharmed.run("systemctl", "reload", "weightd")
    assert (unharmed.daemon, unharmed.shown("ActiveState")) == (daemon, "active")
    assert "'kepp'" in unharmed.journal()


def test_a_start_with_a_mistake_fails_once_and_loses_nothing(
    unharmed: Machine, settings: str
) -> None:
    held = versions(unharmed)
    unharmed.write(CONFIG, f"kepp = 2\n{settings}")
    unharmed.systemctl("stop", *SOCKETS, "weightd")
    assert unharmed.run("systemctl", "start", "weightd", succeeds=False).returncode != 0
    assert "status=2" in unharmed.journal()
    assert unharmed.shown("NRestarts") == "0"
    assert int(unharmed.shown("NFileDescriptorStore")) > 0
    unharmed.write(CONFIG, settings)
    unharmed.systemctl("start", "weightd")
    assert versions(unharmed) == held


def test_the_descriptors_that_systemd_keeps_are_those_of_what_is_held(unharmed: Machine) -> None:
    stored = int(unharmed.shown("NFileDescriptorStore"))
    unharmed.systemctl("restart", "weightd")
    assert int(unharmed.shown("NFileDescriptorStore")) == stored


def test_weights_were_read_once_however_often_the_daemon_began(
    service: Machine, worker: Service
) -> None:
    journal = service.journal()
    assert len(re.findall("ready at", journal)) > 4
    assert len(re.findall("staging lenet", journal)) <= 2


def test_versions_go_on_where_they_were(service: Machine, worker: Service) -> None:
    before = max(number for number, _ in versions(service))
    service.run(WEIGHTD, "publish", "lenet", FINAL, user=OPERATOR)
    wait_until(lambda: worker.ask("report")["version"] == before + 1)
    service.signal("KILL")
    service.run(WEIGHTD, "publish", "lenet", EARLY, user=OPERATOR)
    wait_until(lambda: worker.ask("report")["version"] == before + 2)
    report = worker.ask("report")
    assert report["failed"] == []
    assert {len(digests) for digests in report["answers"].values()} == {1}
    assert [number for number, _ in versions(service)] == [before + 1, before + 2]


def test_a_rollback_works_after_a_kill(service: Machine, worker: Service) -> None:
    earlier, live = (number for number, _ in versions(service))
    service.signal("KILL")
    service.run(WEIGHTD, "rollback", "lenet", user=OPERATOR)
    wait_until(lambda: worker.ask("report")["version"] == earlier)
    assert (live, "HELD") in versions(service)
    assert worker.ask("report")["failed"] == []
