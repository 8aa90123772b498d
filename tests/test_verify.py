"""`weightd verify` and the check in the background, on a real daemon whose stagers flip one bit of
what they wrote (tests/workers/lying_stager.py)."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import weightd
from tests.command_line import CommandLine
from tests.daemons import EARLY, FINAL, LENET, WORKERS, Daemon, running_daemon
from tests.helpers import wait_until
from tests.nets import arrays_of
from weightd.daemon.embedded import Embedded
from weightd.daemon.settings import Settings
from weightd.errors import DamagedError, UnknownModelError

LIARS = (sys.executable, str(WORKERS / "daemon_of_liars.py"))
QUIET = {"scrub_mb_per_s": 0}


def children_of(daemon: Daemon) -> list[int]:
    path = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.fixture(scope="module")
def flawed() -> Iterator[Daemon]:
    """It holds `flawed`, version 1 with one wrong bit, and `whole`; nobody has looked yet."""
    with running_daemon(prefix=LIARS, **QUIET) as daemon:
        daemon.client.load("flawed", EARLY, weights_only=True)
        daemon.client.load("whole", EARLY, weights_only=True)
        yield daemon


def test_verify_finds_marks_and_fails_on_one_wrong_bit(flawed: Daemon) -> None:
    cli = CommandLine(flawed.runtime_dir)
    assert flawed.client.status().damaged_versions == 0
    document = cli.run("verify", "whole", "--json").json()
    assert document["ok"] is True
    [whole] = document["versions"]
    assert (whole["model"], whole["version"], whole["verdict"]) == ("whole", 1, "sound")
    assert whole["nbytes"] == sum(array.nbytes for array in arrays_of(EARLY).values())

    told = cli.run("verify")
    assert told.status == 1
    assert told.err == ""
    rows = {line.split()[0]: line.split() for line in told.out.splitlines() if " 1 " in line}
    assert rows["whole"][-1] == "sound"
    assert rows["flawed"][-1] == "damaged"
    assert "flawed version 1: tensor 'fc3.weight'" in told.out

    status = flawed.client.status()
    assert status.damaged_versions == 1
    assert "its digest is" in status.models["flawed"].versions[0].damage
    assert status.models["whole"].versions[0].damage == ""
    table = cli.run("status").out
    assert "1 live damaged" in table
    assert "flawed version 1 is damaged: tensor 'fc3.weight'" in table
    assert "ERROR weightd.scrub: flawed version 1 is damaged in memory" in flawed.log()
    assert "corrupt flawed version 1" in flawed.log()
    done = cli.run("verify", "flawed", "--json")
    assert done.status == 1
    assert '"ok": false' in done.out


def test_verify_of_a_model_that_is_not_there_is_refused(flawed: Daemon) -> None:
    with pytest.raises(UnknownModelError):
        flawed.client.verify("nobody")


def test_nothing_is_built_on_a_damaged_version_but_a_publish_heals(flawed: Daemon) -> None:
    client = flawed.client
    client.load("flawed-too", EARLY, weights_only=True)
    [found] = client.verify("flawed-too")
    assert found.verdict == "damaged"
    change = {"fc3.bias": np.ones(10, np.float32)}
    with pytest.raises(DamagedError, match="publish a full set"):
        client.update("flawed-too", change)
    # The same file: over a whole version it would share all of it.
    assert client.publish("flawed-too", EARLY) == 2
    verdicts = {found.version: found.verdict for found in client.verify("flawed-too")}
    assert verdicts == {1: "damaged", 2: "sound"}
    versions = client.status().models["flawed-too"].versions
    assert [version.shared_nbytes for version in versions] == [0, 0]
    with pytest.raises(DamagedError, match="publish its weights again"):
        client.rollback("flawed-too")
    assert client.update("flawed-too", change) == 3
    assert client.status().models["flawed-too"].versions[-1].shared_nbytes > 0


def test_an_update_is_refused_when_wrong_bytes_are_found_while_it_is_staged(
    flawed: Daemon,
) -> None:
    client = flawed.client
    client.load("flawed-late", LENET, engine="plain")
    with weightd.Client(flawed.runtime_dir) as other, ThreadPoolExecutor(1) as pool:
        update = pool.submit(other.update, "flawed-late", {"fc3.bias": np.ones(10, np.float32)})
        wait_until(lambda: client.status().staging)
        [staging] = client.status().staging
        os.kill(staging.pid, signal.SIGSTOP)
        try:
            client.verify("flawed-late")
        finally:
            os.kill(staging.pid, signal.SIGCONT)
        with pytest.raises(DamagedError, match="would share"):
            update.result(20)
    assert client.status().models["flawed-late"].live == 1


def test_a_publish_of_weights_alone_takes_no_damaged_graph(flawed: Daemon) -> None:
    client = flawed.client
    client.load("flawed-graph", LENET, engine="plain")
    [found] = client.verify("flawed-graph")
    assert found.damage.startswith("the source graph, ")
    with pytest.raises(DamagedError, match="publish a file that has the graph"):
        client.publish("flawed-graph", FINAL)
    assert client.publish("flawed-graph", LENET) == 2
    assert client.publish("flawed-graph", FINAL) == 3
    assert [found.verdict for found in client.verify("flawed-graph")] == ["sound", "sound"]


def test_workers_of_a_damaged_version_go_on_and_are_named(flawed: Daemon) -> None:
    flawed.client.load("flawed-used", EARLY, weights_only=True)
    with flawed.attach_here("flawed-used") as worker:
        flawed.client.verify("flawed-used")
        assert worker.version == 1
        assert worker.weights["fc1.bias"].size
        assert worker.is_connected
        [line] = [x for x in flawed.log().splitlines() if "ERROR" in x and "flawed-used" in x]
        assert f"Workers that map it: {os.getpid()}." in line
    with flawed.attach_here("flawed-used") as worker:  # it is live, and not ours to stop
        assert worker.version == 1


def test_the_background_finds_it_without_being_asked() -> None:
    with running_daemon(prefix=LIARS, scrub_mb_per_s=100, scrub_pause_s=0.01) as daemon:
        events = daemon.client.events("flawed")
        daemon.client.load("flawed", EARLY, weights_only=True)
        [corrupt] = [next(e for e in events if e.what == "corrupt")]
        assert corrupt.version == 1
        assert "tensor 'fc3.weight'" in corrupt.text
        assert daemon.client.status().damaged_versions == 1
        daemon.client.publish("flawed", FINAL)
        daemon.client.publish("flawed", EARLY)  # the damaged one is freed
        wait_until(lambda: daemon.client.status().damaged_versions == 0)


def test_a_daemon_ends_while_a_scrubber_reads() -> None:
    with running_daemon(scrub_mb_per_s=0.001, scrub_pause_s=0.01) as daemon:
        daemon.client.load("m", EARLY, weights_only=True)
        wait_until(lambda: children_of(daemon))
        [scrubber] = children_of(daemon)
        assert daemon.stop(signal.SIGTERM) == 0
        assert not Path(f"/proc/{scrubber}").exists()


def test_a_killed_daemon_takes_its_scrubber_along() -> None:
    with running_daemon(scrub_mb_per_s=0.001, scrub_pause_s=0.01) as daemon:
        daemon.client.load("m", EARLY, weights_only=True)
        wait_until(lambda: children_of(daemon))
        [scrubber] = children_of(daemon)
        wait_until(lambda: os.sched_getscheduler(scrubber) == os.SCHED_IDLE)
        daemon.stop(signal.SIGKILL)
        wait_until(
            lambda: not Path(f"/proc/{scrubber}").exists(), timeout_s=2
        )  # not at its next report


@pytest.mark.usefixtures("own_runtime")
@pytest.mark.parametrize("settings", [None, Settings(keep=1)])
def test_whoever_shares_its_own_model_gets_no_scrubber_but_may_verify(
    settings: Settings | None,
) -> None:
    with (
        Embedded(os.environ, settings) as embedded,
        weightd.Client(embedded.folder.path) as client,
    ):
        assert embedded._server._settings.scrub_mb_per_s == 0
        client.load("m", EARLY, weights_only=True)
        [found] = client.verify("m")
        assert found.verdict == "sound"
