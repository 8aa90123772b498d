"""The command line when something is wrong: one line that says what, status 2, no traceback."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from tests.command_line import ENVIRON, MODULE, CommandLine
from tests.daemons import EARLY, LENET, Daemon, running_daemon
from tests.helpers import wait_until
from weightd.cli import main
from weightd.cli.app import PANELS

ROOT = Path(__file__).parent.parent
NO_PROCESS = 2**22 + 1  # above pid_max's limit


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with running_daemon() as daemon:
        daemon.load_lenet()
        yield daemon


@pytest.fixture
def cli(shared: Daemon) -> CommandLine:
    return CommandLine(shared.runtime_dir)


@pytest.mark.parametrize(
    "arguments",
    [("ps",), ("load", "net", LENET)],
    ids=lambda arguments: arguments[0],
)
def test_without_a_daemon_the_line_names_the_command_that_starts_one(
    arguments: tuple[object, ...], tmp_path: Path
) -> None:
    line = CommandLine(tmp_path).run(*arguments).complaint()
    assert f"weightd keeper --runtime-dir {tmp_path}" in line


def test_programs_get_the_error_as_json_too(tmp_path: Path) -> None:
    done = CommandLine(tmp_path).run("status", "--json")
    error = json.loads(done.out)["error"]
    assert error == {"code": "NoDaemonError", "message": done.complaint()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("load", "net", "/nowhere/net.onnx"), "cannot open /nowhere/net.onnx"),
        (("load", "lenet", LENET), "loaded already"),
        (("publish", "lenet", __file__), "test_cli_errors.py"),
        (("publish", "bret", EARLY), "no model 'bret'"),
        (("rollback", "lenet", 7), "no version 7"),
        (("cancel", "lenet"), "nothing is being staged"),
        (("allow", "lenet", NO_PROCESS), f"no process {NO_PROCESS}"),
        (("predict", "lenet", "--input", "/nowhere.npy"), "cannot read /nowhere.npy"),
        (("predict", "lenet", "--input", __file__), "neither .npy nor .npz"),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_a_refusal_is_one_line(cli: CommandLine, arguments: tuple[object, ...], says: str) -> None:
    assert says in cli.run(*arguments).complaint()


def test_predict_refuses_an_input_that_the_model_does_not_take(
    cli: CommandLine, tmp_path: Path
) -> None:
    np.savez(tmp_path / "other.npz", image=np.zeros((1, 1, 32, 32), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((1, 1, 32, 32)))
    other = cli.run("predict", "lenet", "--input", tmp_path / "other.npz")
    assert "wants the inputs x; it got image" in other.complaint()
    double = cli.run("predict", "lenet", "--input", tmp_path / "double.npy")
    assert "is float64, the model takes float32" in double.complaint()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("statsu", "no such command 'statsu' (did you mean 'status'?); see `weightd --help`"),
        ("status --jsn", "no such option: --jsn (did you mean --json?); see `weightd status "),
        (
            "allow lenet 4 four",
            "PID must be a whole number, at least 1; see `weightd allow --help`",
        ),
        ("exporter --port 99999", "--port must be a whole number, at least 0 and at most 65535; "),
        ("exporter --exit-idle x", "--exit-idle must be a number, at least 0.1; see"),
        (
            "load net FILE --engine fast",
            "--engine must be one of 'prepacked', 'plain', 'reference'",
        ),
        ("allow lenet", "name a PID, --user, --group or --unit; see `weightd allow --help`"),
        ("publish lenet", "missing argument 'FILE'; see `weightd publish --help`"),
    ],
)
def test_words_that_make_no_command_are_refused_in_one_line(
    words: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["weightd", *words.split()])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"weightd: {says}")


def test_a_full_disk_is_named_as_what_the_output_met() -> None:
    with open("/dev/full", "wb") as full:
        command = [*MODULE, "inspect", str(LENET), "--json"]
        done = subprocess.run(
            command, env=ENVIRON, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (
        2,
        b"weightd: cannot write the output: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "full"), "weightd: cannot write the output: full\n"),
        (OSError(errno.EACCES, "closed", "/x"), "weightd: cannot use /x: closed\n"),
        (OSError(errno.ENOTSOCK, "no socket"), None),
    ],
    ids=["of the output", "of a file", "ours"],
)
def test_an_error_that_nobody_foresaw_is_not_called_one_of_the_output(
    error: OSError,
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(**_: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["weightd.cli.app"], "app", failing)
    with pytest.raises(SystemExit if says else OSError):
        main()
    assert capsys.readouterr().err == (says or "")


def test_no_path_is_checked_by_typer_which_cannot_say_what_is_amiss() -> None:
    paths = [
        note
        for functions in PANELS.values()
        for function in functions
        for hint in get_type_hints(function, include_extras=True).values()
        if Path in (kind := get_args(hint) or (hint,))[:1] or Path in get_args(kind[0])
        for note in kind[1:]
    ]
    assert len(paths) > len(PANELS)
    assert not any(note.readable or note.exists or note.writable for note in paths)


def test_words_that_make_no_command_are_refused_as_json_too(cli: CommandLine) -> None:
    done = cli.run("allow", "lenet", "four", "--json")
    assert json.loads(done.out)["error"]["message"] == done.complaint()


def test_the_help_names_every_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [
        path for folder in ("weightd/cli", "daemon") for path in (ROOT / folder).glob("*.py")
    ]
    used = {
        found
        for path in sources
        for found in re.findall(
            r"^\w+ = (\d+)  # (?:exit status|of a daemon)", path.read_text(), re.M
        )
    }
    assert {"1", "2", "75"} <= used
    monkeypatch.setattr(sys, "argv", ["weightd", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    told = capsys.readouterr().out.partition("Exit status:")[2]
    assert used <= set(re.findall(r"^ +(\d+) ", told, re.M))


def test_what_a_file_says_cannot_command_the_terminal(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "red\x1b[31m\nfile"
    line = cli.run("load", "net", file).complaint()
    assert line == f"cannot open {tmp_path}/red\\x1b[31m file: No such file or directory"


def test_ctrl_c_cancels_a_publish(shared: Daemon, tmp_path: Path) -> None:
    cli = CommandLine(shared.runtime_dir)
    with cli.started("publish", "lenet", EARLY, log=tmp_path / "err") as process:
        wait_until(lambda: shared.client.status().staging)
        stager = shared.client.status().staging[0].pid
        os.kill(stager, signal.SIGSTOP)  # so that it cannot finish first
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert (tmp_path / "err").read_text() == ""
    wait_until(lambda: not shared.client.status().staging)
    assert shared.client.status().models["lenet"].live == 1
