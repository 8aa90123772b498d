"""The command line of a user who is not the daemon's: what works, and what is said at once."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import CommandLine
from tests.daemons import LENET, WORKERS, Daemon, kept_daemon, running_daemon
from weightd.ipc.runtime import RuntimeFolder

USER = 1000
SCRIPT = str(WORKERS / "command_as_user.py")
ASKS = (
    ("status",),
    ("doctor",),
    ("ps",),
    ("events",),
    ("top", "--once"),
    ("verify",),
    ("load", "net", "/dev/null"),
)
pytestmark = pytest.mark.root


def other_users(folder: Path) -> CommandLine:
    return CommandLine(folder, (sys.executable, SCRIPT, str(USER)))


@pytest.fixture(params=[0o700, 0o711], ids=["private", "only entered"])
def closed(request: pytest.FixtureRequest, short_path: Path) -> Path:
    """A daemon's folder, and a keeper's, of a user who lets nobody in; both are away."""
    folder = RuntimeFolder(short_path / "run")
    folder.create(request.param)
    short_path.chmod(0o711)
    for path in (folder.control, folder.events, folder.admin, folder.keeper):
        path.touch(mode=0o600)
    return folder.path


@pytest.fixture(scope="module")
def public() -> Iterator[Daemon]:
    """A daemon with lenet and a rule that lets the other user in."""
    with running_daemon(attach_public=True) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        daemon.load_lenet()
        daemon.client.allow_rules("lenet", f"uid:{USER}")
        daemon.load_lenet("mine")
        yield daemon


@pytest.fixture
def digit(short_path: Path) -> Path:
    short_path.chmod(0o755)
    path = short_path / "digit.npz"
    np.savez(path, x=np.zeros((4, 1, 32, 32), np.float32), label=np.zeros(4, np.int64))
    return path


@pytest.mark.parametrize("words", ASKS, ids=lambda words: words[0])
def test_a_daemon_that_lets_this_user_not_in_is_called_so(
    closed: Path, words: tuple[str, ...]
) -> None:
    done = other_users(closed).run(*words)
    said = done.out if words == ("doctor",) else done.complaint()
    sock = "admin.sock" if words[0] == "load" else "control.sock"
    assert f"{closed}/{sock} belongs to another user and lets this one not in" in said


def test_who_is_not_let_in_by_a_kept_daemon_hears_it_at_once() -> None:
    with kept_daemon(attach_public=True) as kept:
        kept.runtime_dir.parent.chmod(0o711)
        for words in (("status",), ("events",)):
            began_s = time.monotonic()
            complaint = other_users(kept.runtime_dir).run(*words).complaint()
            assert "belongs to another user" in complaint
            assert time.monotonic() - began_s < 8  # a daemon that is away is waited for 10 s


@pytest.mark.parametrize("words", [("predict", "--input"), ("eval", "--data")], ids=lambda w: w[0])
def test_who_is_allowed_predicts_without_the_control_socket(
    public: Daemon, digit: Path, words: tuple[str, str]
) -> None:
    command, option = words
    if command == "predict":
        digit = digit.with_name("digit.npy")
        np.save(digit, np.zeros((1, 1, 32, 32), np.float32))
    done = other_users(public.runtime_dir).run(command, "lenet", option, digit)
    assert done.status == 0, done.err
    assert "lenet version 1" in done.out


def test_who_is_not_allowed_hears_of_that_and_not_of_the_control_socket(
    public: Daemon, digit: Path
) -> None:
    complaint = other_users(public.runtime_dir).run("eval", "mine", "--data", digit).complaint()
    assert "may not attach" in complaint
    assert "control.sock" not in complaint


def test_a_file_that_may_not_be_read_is_named(public: Daemon, short_path: Path) -> None:
    short_path.chmod(0o755)
    file = short_path / "net.onnx"
    shutil.copy(LENET, file)
    file.chmod(0o600)
    os.chown(file, 0, 0)
    complaint = other_users(public.runtime_dir).run("load", "net", file).complaint()
    assert complaint.startswith(f"cannot open {file}: Permission denied")
