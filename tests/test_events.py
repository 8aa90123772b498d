"""What is told as it happens: by which words, and that a gap is no secret."""

import ast
import json
import os
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.daemons import kept_daemon
from tests.helpers import wait_until
from weightd.ipc.protocol import EVENTS, Event

ROOT = Path(__file__).parent.parent


def test_a_follower_hears_that_the_daemon_was_away_and_what_it_has_now(tmp_path: Path) -> None:
    with kept_daemon() as daemon:
        daemon.load_lenet()
        incarnation = daemon.client.status().incarnation
        cli = CommandLine(daemon.folder.path)
        with cli.started("events", "lenet", "--json", log=tmp_path / "err") as follower:
            assert follower.stdout is not None
            os.set_blocking(follower.stdout.fileno(), False)
            heard: list[str] = []

            def hears(what: str) -> bool:
                heard.extend(follower.stdout or ())
                return any(json.loads(line)["what"] == what for line in heard)

            wait_until(lambda: daemon.client.allow("lenet", os.getpid()) and hears("allowed"))
            assert not hears("missed")  # the first connection follows no gap
            daemon.kill()
            wait_until(lambda: hears("missed"))
            daemon.client.revoke("lenet")
            wait_until(lambda: hears("revoked"))
            [missed] = [e for e in map(json.loads, heard) if e["what"] == "missed"]
        assert missed["pid"] == daemon.pid
        assert missed["text"] == (
            "the daemon was away, or events came too fast: what happened until now is not told; "
            f"incarnation {incarnation} has 1 model, adopted 1 version and refused 0 things"
        )
        assert (
            f"started pid {daemon.pid} incarnation {incarnation}, adopted 1 model with 1 "
            "version, refused 0 things"
        ) in daemon.log()


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (Event("stopping", "", 0, 0, "by SIGTERM"), "stopping by SIGTERM"),
        (Event("allowed", "lenet", 0, 7, "pids 8"), "allowed lenet pid 7 pids 8"),
        (Event("attached", "lenet", 3, 7, ""), "attached lenet version 3 pid 7"),
    ],
)
def test_an_event_leaves_out_what_it_is_not_about(event: Event, sentence: str) -> None:
    assert event.sentence == sentence


def test_what_is_emitted_is_named_as_an_event() -> None:
    calls = [
        node
        for path in (ROOT / "daemon").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("emit") and node.args
    ]
    words = {arg.value for call in calls if isinstance(arg := call.args[0], ast.Constant)}
    assert len(words) > 9
    assert words <= set(EVENTS)


def test_the_page_for_operators_names_every_event() -> None:
    page = (ROOT / "docs" / "watching.md").read_text()
    assert not [event for event in (*EVENTS, "missed") if f"`{event}`" not in page]
