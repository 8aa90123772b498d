"""`weightd top`: on a real terminal, in a pipe, and what it makes of readings."""

import io
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from tests.command_line import CommandLine
from tests.daemons import FINAL, Daemon, running_daemon
from tests.helpers import wait_until
from tests.terminal import on_terminal
from weightd.cli.top_lines import Lines, lines
from weightd.cli.top_view import fitting, view
from weightd.ipc.status import StagingStatus, VersionStatus
from weightd.readings import Reading, take


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for the tests that only look: it holds lenet, versions 1 and 2."""
    with running_daemon() as daemon:
        daemon.load_lenet()
        daemon.client.publish("lenet", FINAL)
        yield daemon


@pytest.fixture(scope="module")
def cli(shared: Daemon) -> CommandLine:
    return CommandLine(shared.runtime_dir)


# --- in a pipe -----------------------------------------------------------------------------


def test_in_a_pipe_it_is_printed_once(cli: CommandLine, shared: Daemon) -> None:
    told = cli.run("top")
    assert told.status == 0, told.err
    assert f"pid {shared.pid}" in told.out
    assert "1 held, 2 live" in told.out
    assert "\x1b" not in told.out


def test_programs_get_one_document(cli: CommandLine, shared: Daemon) -> None:
    with shared.attach_here():
        document = cli.run("top", "--json").json()
    assert document["daemon"]["pid"] == shared.pid
    assert document["daemon"]["held_nbytes"] == shared.client.status().held_nbytes
    [model] = document["models"]
    assert (model["name"], model["live"], model["workers"]) == ("lenet", 2, 1)
    assert model["publishes_per_s"] is None  # that needs two looks
    [worker] = document["workers"]
    assert worker["pid"] == os.getpid()
    wait_until(lambda: not shared.client.status().workers)


def test_without_a_daemon_one_look_is_refused(tmp_path: Path) -> None:
    assert "no daemon answers" in CommandLine(tmp_path).run("top", "--once").complaint()


# --- on a terminal -------------------------------------------------------------------------


def test_it_goes_on_through_a_restart_of_the_daemon_until_q(tmp_path: Path) -> None:
    with running_daemon() as daemon:
        daemon.load_lenet()
        cli = CommandLine(daemon.runtime_dir)
        with on_terminal(cli.argv("top", "--interval", "0.1"), rows=24) as terminal:
            wait_until(lambda: terminal.shows(f"pid {daemon.pid}", "lenet", "1 live"))
            assert not terminal.is_cooked()
            wait_until(lambda: terminal.shows("0.0/s attaches"))  # after the second look
            daemon.stop(signal.SIGKILL)
            wait_until(lambda: terminal.shows("daemon away", "no daemon answers"))
            assert not terminal.shows("lenet")
            with cli.started("serve", log=tmp_path / "log") as again:
                wait_until(lambda: terminal.shows(f"pid {again.pid}"))
                assert not terminal.shows("daemon away")
                terminal.press("q")
                wait_until(terminal.ended)
                assert terminal.process.returncode == 0
                assert terminal.is_cooked()
                again.terminate()
                again.wait(20)


def test_ctrl_c_ends_it_and_leaves_the_terminal_as_it_was(cli: CommandLine) -> None:
    with on_terminal(cli.argv("top", "--interval", "60"), rows=24) as terminal:
        wait_until(lambda: terminal.shows("lenet"))
        terminal.process.send_signal(signal.SIGINT)
        wait_until(terminal.ended)
        assert terminal.process.returncode == 130
        assert terminal.is_cooked()


def test_a_small_terminal_shows_what_fits(cli: CommandLine) -> None:
    with on_terminal(cli.argv("top", "--interval", "60"), rows=7, columns=40) as terminal:
        wait_until(lambda: terminal.shows("daemon", "memory", "rates"))
        assert not terminal.shows("lenet")  # 3 lines, and a table needs 5


# --- what is shown -------------------------------------------------------------------------


@pytest.fixture
def reading(shared: Daemon) -> Reading:
    return take(shared.client)


def later(reading: Reading, seconds: float, **counts: object) -> Reading:
    """The same daemon, a while later, with other counts."""
    return replace(
        reading,
        counts=msgspec.structs.replace(reading.counts, **counts),
        at_s=reading.at_s + seconds,
    )


def test_rates_are_counted_between_two_looks(reading: Reading) -> None:
    before = later(reading, 0, events={}, refusals={"attach": {"NotAllowedError": 5}}, cpu_s=1.0)
    refusals = {"attach": {"NotAllowedError": 6}, "control": {"RoleError": 20}}
    shown = lines(later(reading, 2, refusals=refusals, cpu_s=1.5, events={"attached": 8}), before)
    assert shown.daemon.cpu_percent == pytest.approx(25)
    assert shown.daemon.attaches_per_s == pytest.approx(4)
    assert [(r.reason, r.total) for r in shown.refusals] == [
        ("RoleError", 20),
        ("NotAllowedError", 6),
    ]
    assert [r.per_s for r in shown.refusals] == pytest.approx([10, 0.5])


def test_a_publish_shows_as_a_rate_and_a_rollback_does_not(reading: Reading) -> None:
    model = reading.status.models["lenet"]
    third = msgspec.structs.replace(
        model, live=3, versions=(*model.versions, VersionStatus(3, "LIVE", 1, 0, 0))
    )
    assert _publishes(with_lenet(reading, third), reading) == pytest.approx(0.5)
    back = msgspec.structs.replace(model, live=1)
    assert _publishes(with_lenet(reading, back), reading) == 0


def _publishes(now: Reading, before: Reading) -> float | None:
    [model] = lines(replace(now, at_s=before.at_s + 2), before).models
    return model.publishes_per_s


def with_lenet(reading: Reading, model: object) -> Reading:
    status = msgspec.structs.replace(reading.status, models={"lenet": model})
    return replace(reading, status=status)


def test_nothing_is_counted_across_a_restart_of_the_daemon(reading: Reading) -> None:
    status = msgspec.structs.replace(reading.status, incarnation="another")
    shown = lines(later(replace(reading, status=status), 1), reading)
    assert shown.daemon.attaches_per_s is None
    assert shown.models[0].publishes_per_s is None


def busy(reading: Reading, number: int) -> Lines:
    """Many of everything, the names longer than any terminal is wide."""
    shown = lines(later(reading, 0, refusals={"attach": {"NotAllowedError": 1}}), None)
    [model] = shown.models
    long = "x" * 300
    return replace(
        shown,
        models=tuple(replace(model, name=f"{long}{i}", note=long) for i in range(number)),
        staging=tuple(StagingStatus(long, i, "reading", 1, 2) for i in range(4)),
    )


@pytest.mark.parametrize("number", [0, 1, 5, 300])
@pytest.mark.parametrize("nlines", [3, 8, 9, 24, 80])
def test_what_is_shown_has_at_most_as_many_lines_as_the_terminal(
    reading: Reading, number: int, nlines: int
) -> None:
    console = Console(width=80, height=nlines, file=io.StringIO())
    rendered = console.render_lines(view(busy(reading, number), nlines), pad=False)
    assert len(rendered) <= nlines
    text = "\n".join("".join(segment.text for segment in line) for line in rendered)
    assert "daemon" in text
    if nlines == 80:
        assert "50 %" in text
        assert ("more" in text) is (number == 300)


def test_tables_share_the_lines_and_the_last_ones_go_first() -> None:
    assert fitting([1, 1], 100) == [1, 1]
    assert fitting([100, 100], 30) == [11, 11]
    assert fitting([2, 100], 30) == [2, 20]
    assert fitting([100, 100, 100], 11) == [2, 1, 0]
    assert fitting([100], 4) == [0]
    assert fitting([], 10) == []
