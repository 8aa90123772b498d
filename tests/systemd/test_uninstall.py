"""`make uninstall-systemd`: last of the tests on the machine, since it takes the service away."""

from collections.abc import Iterator

import pytest

from tests.systemd.conftest import Installed
from tests.systemd.machine import PYTHON, Machine

# What the system keeps for itself whenever users come and go, or units run.
SYSTEMS_OWN = ("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/var/lib/systemd/")
PACKAGE = ("/srv/package", "/usr/lib/weightd")


@pytest.fixture
def package(installed: Installed) -> Iterator[Machine]:
    """The machine, with a package's files below a folder."""
    machine = installed.machine
    folder, prefix = PACKAGE
    make = ("make", "-C", "/srv/weightd", f"DESTDIR={folder}", f"PREFIX={prefix}")
    machine.run(*make, "install-systemd")
    yield machine
    machine.run(*make, "uninstall-systemd")
    assert machine.out("find", folder, "-not", "-type", "d") == ""
    machine.run("rm", "-r", folder)


def test_what_is_installed_into_a_folder_does_not_know_of_it(package: Machine) -> None:
    folder, prefix = PACKAGE
    found = package.run("grep", "-rIlF", folder, folder, succeeds=False).stdout.split()
    assert [path for path in found if not path.endswith("/direct_url.json")] == []
    unit = package.out("cat", f"{folder}/usr/local/lib/systemd/system/weightd.service")
    assert f"ExecStart={prefix}/bin/" in unit
    package.run("mount", "--mkdir", "--bind", f"{folder}{prefix}", prefix)
    assert package.out(f"{prefix}/bin/weightd", "--version").startswith("weightd ")
    package.run("umount", prefix)
    package.run("rmdir", prefix)


def test_uninstalling_leaves_nothing_however_often(installed: Installed) -> None:
    machine = installed.machine
    for _ in range(2):
        machine.run("make", "-C", "/srv/weightd", "uninstall-systemd")
    new = machine.files() - installed.files
    assert {path for path in new if not path.startswith(SYSTEMS_OWN)} == set()
    assert machine.run("id", "weightd", succeeds=False).returncode != 0
    assert machine.run("ls", "/run/weightd", PYTHON, succeeds=False).stdout == ""
    units = machine.systemctl("list-units", "--all", "--plain", "--no-legend", "weightd*")
    assert units == ""
