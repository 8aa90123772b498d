"""systemd/weightd-exporter.*: what systemd itself says of the units, and that they fit together."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from weightd.cli.app import app
from weightd.ipc.runtime import RuntimeFolder

UNITS = Path(__file__).parent.parent / "systemd"
SERVICE, SOCKET = UNITS / "weightd-exporter.service", UNITS / "weightd-exporter.socket"
ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSURE = 6  # tenths of a point: 0.6

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(ANALYZE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def unit(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[method-assign, assignment] # systemd tells them apart
    found.read_string(path.read_text())
    return found


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    for path in (SERVICE, SOCKET):
        text = path.read_text().replace("/opt/weightd/bin/weightd", "/bin/true")  # it must be there
        (tmp_path / path.name).write_text(text)
    port = tmp_path / f"{SOCKET.name}.d" / "port.conf"
    port.parent.mkdir()
    shutil.copy(UNITS / "exporter-port.conf", port)
    told = analyze("verify", tmp_path / SERVICE.name, tmp_path / SOCKET.name)
    assert (told.returncode, told.stderr) == (0, "")


@needs_systemd
def test_the_exporter_is_exposed_as_little_as_it_can_be() -> None:
    told = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSURE}", SERVICE)
    assert told.returncode == 0, told.stdout


def test_the_units_fit_each_other_and_the_daemon() -> None:
    service, sock = unit(SERVICE)["Service"], unit(SOCKET)["Socket"]
    daemon = unit(UNITS / "weightd.service")["Service"]
    folder = RuntimeFolder(Path(service["Environment"].removeprefix("WEIGHTD_RUNTIME_DIR=")))
    assert sock["ListenStream"] == str(folder.metrics)
    assert folder.path.name == daemon["RuntimeDirectory"]
    assert service["User"] == sock["SocketUser"] == daemon["User"]
    assert unit(SERVICE)["Unit"]["Requires"] == SOCKET.name
    ours = unit(UNITS / "exporter-port.conf")["Socket"]["ListenStream"]
    assert ours.startswith("127.0.0.1:")


def test_the_command_of_the_unit_is_one_that_there_is() -> None:
    _, command, *options = unit(SERVICE)["Service"]["ExecStart"].split()
    [found] = [c for c in app.registered_commands if c.name == command]
    assert found.callback is not None
    assert options[0].removeprefix("--").replace("-", "_") in found.callback.__annotations__


def test_a_daemon_takes_a_folder_where_only_the_metrics_are_served_yet(tmp_path: Path) -> None:
    folder = RuntimeFolder(tmp_path / "weightd")
    folder.path.mkdir(mode=0o755)  # as the socket unit makes it
    folder.metrics.touch()
    folder.create(0o711)
    assert folder.path.stat().st_mode & 0o777 == 0o711
