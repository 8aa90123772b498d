"""One machine for all tests of the service: booted, installed on, and left at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.systemd import debian
from tests.systemd.machine import (
    EARLY,
    LENET,
    SOCKETS,
    WEIGHTD,
    Machine,
    Service,
    booted,
    running_service,
)

HERE = Path(__file__).parent
# Ten seconds of waiting for the watchdog would be ten for each run of these tests.
IMPATIENT = "[Service]\nWatchdogSec=2\n"
CONFIG = "/etc/weightd/weightd.toml"
OPERATOR, OWNER, STRANGER = "olga", "alice", "mallory"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.systemd)
            item.add_marker(pytest.mark.slow)


@contextmanager
def inhabited() -> Iterator[Machine]:
    """A machine with three people on it, and without weightd."""
    reason = debian.why_not()
    if reason:
        pytest.skip(reason)
    with booted() as running:
        for name in (OPERATOR, OWNER, STRANGER):
            running.run("useradd", "--create-home", name)
        yield running


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    with inhabited() as running:
        yield running


@dataclass(frozen=True)
class Installed:
    """weightd on the machine, as `make install-systemd` leaves it; files: those before it."""

    machine: Machine
    files: set[str]
    said: str


@pytest.fixture(scope="session")
def installed(machine: Machine) -> Installed:
    files = machine.files()
    done = machine.run("make", "-C", "/srv/weightd", "install-systemd")
    return Installed(machine, files, done.stdout)


@pytest.fixture(scope="module")
def spare() -> Iterator[Machine]:
    """Another machine, with weightd as it is installed and a daemon that runs."""
    with inhabited() as running:
        running.run("make", "-C", "/srv/weightd", "install-systemd")
        running.systemctl("enable", "--now", "weightd.service", *SOCKETS)
        yield running


@pytest.fixture(scope="session")
def service(installed: Installed) -> Machine:
    """The machine with weightd's sockets open; the daemon starts when somebody asks."""
    machine = installed.machine
    machine.run("usermod", "--append", "--groups", "weightd", OPERATOR)
    machine.run("mkdir", "-p", "/run/systemd/system/weightd.service.d")
    machine.write("/run/systemd/system/weightd.service.d/impatient.conf", IMPATIENT)
    machine.systemctl("enable", "weightd.service")
    machine.systemctl("enable", "--now", *SOCKETS)
    return machine


@pytest.fixture
def settings(service: Machine) -> Iterator[str]:
    """What is in weightd.toml, and will be again."""
    text = service.out("cat", CONFIG) + "\n"
    yield text
    service.write(CONFIG, text)


@pytest.fixture(scope="session")
def worker(service: Machine) -> Iterator[Service]:
    """A service of a user's that predicts all the time. The operator loaded two versions of its
    model, and allowed it."""
    service.run(WEIGHTD, "load", "lenet", LENET, user=OPERATOR)
    service.run(WEIGHTD, "publish", "lenet", EARLY, user=OPERATOR)
    with running_service(service, "serving", OWNER) as running:
        pid = running.ask("current_pid")["pid"]
        service.run(WEIGHTD, "allow", "lenet", str(pid), user=OPERATOR)
        running.ask("attach", model="lenet")
        yield running


@pytest.fixture
def unharmed(service: Machine, worker: Service) -> Iterator[Machine]:
    """Whatever the test does to the daemon: no prediction fails, the worker keeps its memory, and
    has its lease again with a daemon that holds that very memory, and all else that was held."""
    before = worker.ask("report")
    held = service.memfds(service.daemon)
    yield service
    wait_until(lambda: worker.ask("report")["connected"])
    after = worker.ask("report")
    assert after["failed"] == []
    assert after["count"] > before["count"]
    assert [len(digests) for digests in after["answers"].values()] == [1] * len(after["answers"])
    assert after["inodes"] == before["inodes"]
    assert set(after["inodes"]) <= service.memfds(service.daemon)
    assert service.memfds(service.daemon) >= held
