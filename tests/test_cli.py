"""The command line against a real daemon: what each command does, for people and for programs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import ENVIRON, MODULE, CommandLine
from tests.daemons import DATA, EARLY, FINAL, LENET, Daemon, Worker, running_daemon
from tests.helpers import wait_until
from weightd import __version__

HEAVY = {"numpy", "zmq", "onnx", "onnxruntime", "msgpack"}
COMMANDS = [
    "serve", "keeper", "status", "top", "events", "upgrade", "exporter", "shutdown",
    "load", "publish", "update", "rollback", "verify", "cancel", "unload",
    "allow", "deny", "revoke", "ps", "predict", "eval", "inspect", "convert",
    "doctor", "demo", "bench", "stress",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for the tests that leave it as it was: it holds lenet, versions 1 and 2."""
    with running_daemon() as daemon:
        daemon.load_lenet()
        daemon.client.publish("lenet", FINAL)
        yield daemon


@pytest.fixture
def cli(shared: Daemon) -> CommandLine:
    return CommandLine(shared.runtime_dir)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """One test digit as the model's input."""
    with np.load(DATA / "digits.npz") as digits:
        pixels = digits["images"][:1].astype(np.float32)
    path = tmp_path / "digit.npy"
    np.save(path, ((pixels / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081))[:, None])
    return path


# --- help ----------------------------------------------------------------------------------


def test_the_version_is_told() -> None:
    told = subprocess.run([*MODULE, "--version"], env=ENVIRON, capture_output=True, check=True)
    assert told.stdout.decode() == f"weightd {__version__}\n"


def test_help_shows_every_command_and_loads_no_engine() -> None:
    program = "import sys, weightd.cli; print(*sys.modules); weightd.cli.app(['--help'])"
    told = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, check=True
    )
    modules, *page = told.stdout.splitlines()
    assert not HEAVY & set(modules.split())
    listed = {line.split()[1] for line in page if line.startswith("│ ")}
    assert set(COMMANDS) <= listed


def test_every_command_has_an_example() -> None:
    from weightd.cli import PANELS

    functions = [function for panel in PANELS.values() for function in panel]
    names = [function.__name__.rstrip("_") for function in functions]
    assert sorted(names) == sorted(COMMANDS)
    for name, function in zip(names, functions, strict=True):
        assert f"  weightd {name}" in (function.__doc__ or "")


# --- look ----------------------------------------------------------------------------------


def test_status_is_a_table_for_people(cli: CommandLine, shared: Daemon) -> None:
    told = cli.run("status")
    assert told.status == 0
    assert f"pid {shared.pid}" in told.out
    assert "1 held, 2 live" in told.out
    assert "shared" in told.out
    assert "lenet5.safetensors" in told.out


def test_status_is_one_document_for_programs(cli: CommandLine, shared: Daemon) -> None:
    document = cli.run("status", "--json").json()
    assert document["pid"] == shared.pid
    assert document["models"]["lenet"]["live"] == 2
    lenet = document["models"]["lenet"]
    assert document["held_nbytes"] == lenet["nbytes"]
    first, second = lenet["versions"]
    assert first["shared_nbytes"] == second["shared_nbytes"] == first["nbytes"]
    assert document["held_nbytes"] == second["nbytes"]


def test_ps_lists_who_uses_what(cli: CommandLine, shared: Daemon) -> None:
    assert cli.run("ps").out == "no workers are attached\n"
    assert cli.run("ps", "--json").json() == {"workers": []}
    with shared.attach_here():
        [worker] = cli.run("ps", "--json").json()["workers"]
        assert (worker["pid"], worker["model"], worker["version"]) == (os.getpid(), "lenet", 2)
        assert (worker["uid"], worker["lag"], worker["switches"]) == (os.getuid(), "", 0)
        assert str(os.getpid()) in cli.run("ps").out
    wait_until(lambda: not shared.client.status().workers)


def test_doctor_finds_this_machine_fit(cli: CommandLine, shared: Daemon) -> None:
    document = cli.run("doctor", "--json").json()
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert document["ok"]
    assert {"fail"} & set(states.values()) == set()
    assert {"kernel", "process identity", "sealed memory", "memory", "numpy"} <= states.keys()
    daemon = next(check for check in document["checks"] if check["name"] == "daemon")
    assert str(shared.pid) in daemon["found"]


def test_doctor_fails_on_a_folder_that_others_could_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    told = CommandLine(tmp_path).run("doctor")
    assert told.status == 1
    assert "could be written by others" in told.out
    assert "weightd keeper --runtime-dir" in told.out  # no daemon is a warning


# --- predict -------------------------------------------------------------------------------


def test_predict_shows_the_outputs(cli: CommandLine, digit: Path) -> None:
    told = cli.run("predict", "lenet", "--input", digit)
    assert told.status == 0, told.err
    assert "lenet version 2" in told.out
    assert "(1, 10)" in told.out


def test_predict_gives_programs_the_values(
    cli: CommandLine, shared: Daemon, digit: Path, tmp_path: Path
) -> None:
    by_name = tmp_path / "digit.npz"
    np.savez(by_name, x=np.load(digit))
    document = cli.run("predict", "lenet", "--input", by_name, "--json").json()
    with shared.attach_here() as model:
        [(name, expected)] = model.predict({"x": np.load(digit)}).items()
    assert document["outputs"][name]["values"] == expected.tolist()
    assert (document["version"], document["output"]) == (2, None)


def test_predict_writes_the_outputs(cli: CommandLine, digit: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    document = cli.run("predict", "lenet", "-i", digit, "-o", out, "--json").json()
    assert document["output"] == str(out)
    with np.load(out) as scores:
        [(name, described)] = document["outputs"].items()
        assert described == {"dtype": "float32", "shape": [1, 10]}
        assert scores[name].shape == (1, 10)


# --- change --------------------------------------------------------------------------------


def test_a_model_is_loaded_published_rolled_back_and_unloaded(daemon: Daemon) -> None:
    cli = CommandLine(daemon.runtime_dir)
    assert "would be live as version 1" in cli.run("load", "net", LENET, "--dry-run").out
    loaded = cli.run("load", "net", LENET, "--engine", "reference", "--keep-tensors", "--json")
    assert loaded.json() == {"model": "net", "version": 1, "dry_run": False}
    assert daemon.client.status().models["net"].engine == "reference"
    dry = cli.run("publish", "net", EARLY, "--dry-run", "--json").json()
    assert dry == {"model": "net", "version": 2, "dry_run": True}
    assert cli.run("publish", "net", EARLY).out == "net version 2 is live\n"
    assert cli.run("rollback", "net").out == "net version 1 is live\n"
    assert cli.run("rollback", "net", "2", "--json").json()["version"] == 2
    assert cli.run("unload", "net").out == "net is unloaded\n"
    assert daemon.client.status().models == {}


def test_a_process_is_allowed_revoked_and_killed(lenet: Daemon, worker: Worker) -> None:
    cli = CommandLine(lenet.runtime_dir)
    told = cli.run("allow", "lenet", worker.pid)
    assert 0 <= int(told.out) < 2**64
    document = cli.run("allow", "lenet", worker.pid, os.getpid(), "--json").json()
    assert document["pids"] == [worker.pid, os.getpid()]
    assert 0 <= int(document["handle"]) < 2**64
    with lenet.attach_here():
        revoked = cli.run("revoke", "lenet", os.getpid(), "--json").json()
        assert revoked["pids"] == revoked["still_mapped"] == [os.getpid()]
        assert revoked["killed"] == []
    worker.ask("attach", model="lenet")
    killed = cli.run("revoke", "lenet", "--kill")
    assert killed.status == 0
    assert f"killed: {worker.pid}" in killed.out
    assert worker.process.wait(10) == -signal.SIGKILL


def test_users_groups_and_units_are_allowed_denied_and_revoked(lenet: Daemon) -> None:
    cli = CommandLine(lenet.runtime_dir)
    told = cli.run("allow", "lenet", "--user", "root", "--group", "5", "--unit", "a@*.service")
    assert told.out.startswith("lenet lets in uid:0\nlenet lets in gid:5\nlenet lets in unit:a@*")
    assert "note: attach_public is off" in told.out
    document = cli.run("allow", "lenet", os.getpid(), "--user", "0", "--json").json()
    assert document["rules"] == ["uid:0"]
    assert 0 <= int(document["handle"]) < 2**64
    assert cli.run("deny", "lenet", "--user", "1").out == "lenet denies uid:1\n"
    status = cli.run("status").out
    assert "lenet lets in uid:0 (root), gid:5" in status
    assert "lenet denies uid:1" in status
    assert "note: attach_public is off" in status
    assert "attach_public is off" in cli.run("doctor").out
    model = cli.run("status", "--json").json()["models"]["lenet"]
    assert (model["allow"], model["deny"]) == (["uid:0", "gid:5", "unit:a@*.service"], ["uid:1"])
    lifted = cli.run("deny", "lenet", "--user", "1", "--lift", "--json").json()
    assert lifted["rules"] == ["uid:1"]
    assert "taken back: gid:5" in cli.run("revoke", "lenet", "--group", "5").out
    assert "taken back: uid:0" in cli.run("revoke", "lenet").out
    assert lenet.client.status().models["lenet"].allow == ()


def test_what_takes_back_says_so_when_nothing_was_there(lenet: Daemon) -> None:
    cli = CommandLine(lenet.runtime_dir)
    lenet.client.deny("lenet", "uid:1")
    done = cli.run("deny", "lenet", "--user", "1", "--user", "2", "--lift")
    assert done.status == 0
    assert done.out.splitlines() == [
        "lenet denies uid:1 no more",
        "lenet did not deny uid:2: there was nothing to lift",
    ]
    again = cli.run("deny", "lenet", "--user", "1", "--lift", "--json").json()
    assert (again["rules"], again["not_there"]) == ([], ["uid:1"])
    told = cli.run("revoke", "lenet", os.getpid(), "--user", "2")
    assert told.status == 0
    assert told.out.splitlines() == [
        f"lenet did not let in {os.getpid()}: there was nothing to revoke",
        "lenet did not let in uid:2: there was nothing to revoke",
    ]
    events = lenet.client.counters().events
    assert events.get("denial-lifted") == 1  # what changed nothing is none
    assert not events.get("revoked")


@pytest.mark.parametrize("arguments", [("allow", "lenet"), ("deny", "lenet")])
def test_allow_and_deny_want_somebody(lenet: Daemon, arguments: tuple[str, ...]) -> None:
    done = CommandLine(lenet.runtime_dir).run(*arguments)
    assert done.status == 2
    assert "--user" in done.err


def test_events_are_one_line_each_until_ctrl_c(lenet: Daemon, tmp_path: Path) -> None:
    cli = CommandLine(lenet.runtime_dir)
    with cli.started("events", "lenet", "--json", log=tmp_path / "err") as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        lines: list[str] = []

        def hears() -> bool:
            lenet.client.allow("lenet", os.getpid())  # until it has subscribed
            assert process.stdout is not None
            lines.extend(process.stdout.readlines())
            return bool(lines)

        wait_until(hears)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    event = json.loads(lines[0])
    assert (event["what"], event["model"]) == ("allowed", "lenet")
    assert abs(event["at_unix_s"] - time.time()) < 60
    assert (tmp_path / "err").read_text() == ""


def test_events_end_when_the_daemon_does(daemon: Daemon, tmp_path: Path) -> None:
    cli = CommandLine(daemon.runtime_dir)
    with cli.started("events", log=tmp_path / "err") as process:
        wait_until(lambda: _has_subscriber(daemon))
        assert cli.run("shutdown").out == f"the daemon at {daemon.runtime_dir} is stopping\n"
        assert daemon.process.wait(10) == 0
        assert process.wait(10) == 2
    [line] = (tmp_path / "err").read_text().splitlines()
    assert line.startswith("weightd: no daemon answers")


def _has_subscriber(daemon: Daemon) -> bool:
    """Beside the listening socket of this name there is one that it accepted."""
    return Path("/proc/net/unix").read_bytes().count(bytes(daemon.folder.events)) > 1
