"""`weightd serve`: what it serves, what it refuses to start with, and how it ends."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import weightd
from tests.command_line import CommandLine
from tests.daemons import EARLY, LENET
from tests.helpers import wait_until

CONFIG = """
memory_budget = "2GiB"
keep = 3

[models]
lenet = "nets/lenet5.onnx"
"""


@pytest.fixture
def cli() -> Iterator[CommandLine]:
    """On a folder that is not there yet; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="wd-") as path:
        yield CommandLine(Path(path) / "run")


def wait_until_ready(process: subprocess.Popen[str], log: Path) -> None:
    wait_until(lambda: process.poll() is not None or "ready at" in log.read_text())
    assert process.poll() is None, log.read_text()


def test_serve_serves_until_sigterm_and_leaves_no_socket(cli: CommandLine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ("serve", "--model", f"lenet={LENET}", "--memory-budget", "1.5G", "--keep-versions", "5")
    with cli.started(*argv, log=log) as process:
        wait_until_ready(process, log)
        with weightd.Client(cli.runtime_dir) as client:
            wait_until(lambda: "lenet" in client.status().models)
            status = client.status()
        assert status.pid == process.pid  # the daemon is this very process
        assert status.budget_nbytes == 1536 * 2**20
        assert b"weightd.daemon.main" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert [path for path in cli.runtime_dir.iterdir() if path.is_socket()] == []


@pytest.mark.parametrize("argv", [("keeper",), ("serve", "--keep")], ids=["keeper", "serve"])
def test_a_keeper_starts_the_next_daemon_with_the_weights_of_the_last(
    cli: CommandLine, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    log = tmp_path / "log"
    with cli.started(*argv, "--memory-budget", "1.5G", log=log) as process:
        wait_until_ready(process, log)
        with weightd.Client(cli.runtime_dir) as client:
            client.load("lenet", LENET)
            before = client.status()
            assert before.budget_nbytes == 1536 * 2**20
            assert before.pid != process.pid
            os.kill(before.pid, signal.SIGKILL)
            wait_until(lambda: client.status().pid != before.pid)
            assert list(client.status().models) == ["lenet"]
        assert log.read_text().count("staging lenet") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_command_line_goes_over_the_file(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "lenet5.onnx").write_bytes(LENET.read_bytes())
    config, log = tmp_path / "weightd.toml", tmp_path / "log"
    config.write_text(CONFIG)
    argv = ("serve", "--config", config, "--memory-budget", "1GiB", "--engine", "reference")
    with cli.started(*argv, "--attach-public", log=log) as process:
        wait_until_ready(process, log)
        with weightd.Client(cli.runtime_dir) as client:
            wait_until(lambda: "lenet" in client.status().models)
            assert client.status().budget_nbytes == 2**30
            assert client.status().models["lenet"].engine == "reference"
            for _ in range(3):
                client.publish("lenet", EARLY)
            assert len(client.status().models["lenet"].versions) == 3
        assert (cli.runtime_dir / "attach.sock").stat().st_mode & 0o777 == 0o666
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_one_folder_has_one_daemon(cli: CommandLine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with cli.started("serve", log=log) as process:
        wait_until_ready(process, log)
        line = cli.run("serve").complaint()
        assert f"a daemon (pid {process.pid}) serves {cli.runtime_dir} already" in line
        assert cli.run("status").status == 0  # the first one is as it was


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "net=/nowhere/net.onnx"), "cannot open /nowhere/net.onnx"),
        (("--model", "net=/usr"), "/usr is not a file"),
        (("--model", "/nowhere/net.onnx"), "is not NAME=PATH"),
        (("--model", f"a b={LENET}"), "--model has 'a b', which must be a model's name"),
        (("--keep-versions", "0"), "--keep-versions is 0, and must be a whole number, at least 1"),
        (("--memory-budget", "8 apples"), "'8 apples' is no size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_serve_refuses_what_it_cannot_serve(
    cli: CommandLine, arguments: tuple[str, ...], says: str
) -> None:
    assert says in cli.run("serve", *arguments).complaint()


def test_serve_refuses_a_wrong_setting(cli: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "weightd.toml"
    config.write_text("keeep = 2")
    assert (
        f"{config} has no setting 'keeep' (did you mean 'keep'?)"
        in cli.run("serve", "--config", config).complaint()
    )
    assert not cli.runtime_dir.exists()


def test_serve_refuses_a_folder_that_others_could_write_to(cli: CommandLine) -> None:
    os.mkdir(cli.runtime_dir)
    cli.runtime_dir.chmod(0o777)
    assert "could be written by others" in cli.run("serve").complaint()
