"""`make install-systemd`, as an operator gets it, and the units that it installs."""

import re

from tests.systemd.conftest import Installed
from tests.systemd.machine import SOCKETS, WEIGHTD

UNITS = ("weightd.service", *SOCKETS)
INSTALL = ("make", "-C", "/srv/weightd", "install-systemd")


def test_installing_says_where_it_is_and_how_to_start_it(installed: Installed) -> None:
    assert "installed in /opt/weightd; settings are in /etc/weightd/weightd.toml" in installed.said
    assert f"systemctl enable --now {' '.join(UNITS)}" in installed.said
    assert installed.machine.out(WEIGHTD, "--version").startswith("weightd ")


def test_systemd_has_nothing_to_say_against_the_units(installed: Installed) -> None:
    done = installed.machine.run("systemd-analyze", "verify", *UNITS)
    assert done.stderr == ""


def test_the_service_is_exposed_by_one_tenth_at_most(installed: Installed) -> None:
    unit = "/usr/local/lib/systemd/system/weightd.service"
    command = ("systemd-analyze", "security", "--offline=yes", "--threshold=10", "--no-pager")
    said = installed.machine.out(*command, unit)
    exposure = re.search(r"exposure level .*: .*?([0-9]\.[0-9])", said)
    assert exposure is not None
    assert float(exposure[1]) <= 1.0


def test_the_daemon_has_a_user_and_a_folder_before_it_first_starts(installed: Installed) -> None:
    machine = installed.machine
    assert machine.out("id", "--name", "--groups", "weightd") == "weightd"
    assert machine.out("stat", "--format=%a %U %G", "/run/weightd") == "711 weightd weightd"


def test_installing_twice_changes_nothing_and_keeps_settings(installed: Installed) -> None:
    machine = installed.machine
    config = "/etc/weightd/weightd.toml"
    as_installed = machine.out("cat", config)
    files = machine.files()
    machine.write(config, as_installed + "\n# ours\n")
    done = machine.run(*INSTALL)
    assert "kept your /etc/weightd/weightd.toml" in done.stdout
    assert machine.out("cat", config).endswith("# ours")
    assert machine.files() - files == {f"{config}.new"}
    assert machine.out("cat", f"{config}.new") == as_installed
    machine.run("mv", f"{config}.new", config)
