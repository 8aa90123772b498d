"""`weightd exporter`: a real daemon, a real scrape over its socket."""

import contextlib
import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import ENVIRON, CommandLine
from tests.daemons import EARLY, FINAL, LENET, Daemon, running_daemon, running_worker
from tests.helpers import kill_and_reap, wait_until
from tests.raw import raw_worker
from tests.scraping import Exporter, OverUnix, Scraped, ask, handed_over, running_exporter
from weightd.errors import BadFileError, UnknownModelError
from weightd.exporter.server import AT_ONCE, DEADLINE_S
from weightd.ipc import protocol


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for the tests that only look: it holds lenet, versions 1 and 2."""
    with running_daemon(memory_budget=2**30) as daemon:
        daemon.load_lenet()
        daemon.client.publish("lenet", FINAL)
        yield daemon


@pytest.fixture(scope="module")
def exporter(shared: Daemon) -> Iterator[Exporter]:
    with running_exporter(shared) as running:
        yield running


def when(exporter: Exporter, name: str, value: float, **labels: str) -> Scraped:
    """The scrape that says so, which may take a moment: an answer is half a second old at most."""
    scrapes: list[Scraped] = []

    def says() -> bool:
        scrapes.append(exporter.scrape())
        return scrapes[-1].has(name, **labels) and scrapes[-1].value(name, **labels) == value

    wait_until(says)
    return scrapes[-1]


# --- what it says --------------------------------------------------------------------------


def test_a_scrape_says_what_the_daemon_holds(shared: Daemon, exporter: Exporter) -> None:
    status = shared.client.status()
    found = exporter.scrape()
    assert found.value("weightd_up") == found.value("weightd_models") == 1
    assert found.value("weightd_live_version", model="lenet") == 2
    assert found.value("weightd_versions", model="lenet", state="live") == 1
    assert found.value("weightd_versions", model="lenet", state="held") == 1
    assert found.value("weightd_model_bytes", model="lenet") == status.held_nbytes
    assert found.value("weightd_shared_bytes") == status.held_nbytes
    assert found.value("weightd_budget_bytes") == 2**30
    assert found.value("weightd_build_info", version=status.version) == 1
    assert found.value("weightd_daemon_resident_bytes") > 2**20
    assert found.value("weightd_daemon_cpu_seconds_total") > 0
    assert found.value("weightd_publishes_total", kind="load") == 1
    assert found.value("weightd_publishes_total", kind="publish") == 1
    assert found.value("weightd_staging_seconds_count", kind="publish") == 1
    assert 0 < found.value("weightd_staging_seconds_sum", kind="publish") < 60


def test_workers_their_switches_and_what_they_save_are_counted(daemon: Daemon) -> None:
    daemon.load_lenet()
    with running_exporter(daemon) as exporter, contextlib.ExitStack() as workers:
        for _ in range(2):
            worker = workers.enter_context(running_worker(daemon))
            daemon.client.allow("lenet", worker.ask("current_pid")["pid"])
            worker.ask("attach", model="lenet")
        found = when(exporter, "weightd_attaches_total", 2)
        assert found.value("weightd_leases", model="lenet") == 2
        assert found.value("weightd_saved_bytes") == found.value("weightd_shared_bytes")
        daemon.client.publish("lenet", FINAL)
        found = when(exporter, "weightd_switches_total", 2)
        assert found.value("weightd_notices_total") == 2
        assert found.value("weightd_switch_pause_seconds_count") == 2
        assert 0 < found.value("weightd_switch_pause_seconds_sum") < 10
        assert found.value("weightd_lagging_workers", model="lenet") == 0
        assert found.value("weightd_events_total", event="switched") == 2
        workers.close()
        found = when(exporter, "weightd_detaches_total", 2)
        assert found.value("weightd_leases", model="lenet") == 0


def test_what_has_not_happened_yet_is_there_with_zero(daemon: Daemon) -> None:
    with running_exporter(daemon) as exporter:
        found = exporter.scrape()
    for event in set(protocol.EVENTS) - {"started"}:
        assert found.value("weightd_events_total", event=event) == 0
    assert found.value("weightd_events_total", event="started") == 1
    assert found.value("weightd_requests_total", plane="control", request="Shutdown") == 0
    assert found.value("weightd_requests_total", plane="attach", request="Attach") == 0


def test_refusals_are_counted_by_plane_and_reason(daemon: Daemon, tmp_path: Path) -> None:
    daemon.load_lenet()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(LENET.read_bytes()[:1000])
    with pytest.raises(UnknownModelError):
        daemon.client.rollback("nothing")
    with pytest.raises(BadFileError):
        daemon.client.load("broken", broken)
    with raw_worker(daemon) as peer:
        peer.refusal(protocol.Attach("lenet"))
        peer.refusal(b"\x00 no message")
    counts = daemon.client.counters()
    assert counts.refusals == {
        "control": {"UnknownModelError": 1},
        "attach": {"NotAllowedError": 1, "BadRequestError": 1},
    }
    assert counts.failures == {"load": {"BadFileError": 1}}
    assert counts.requests["attach"] == {"Attach": 1}
    with running_exporter(daemon) as exporter:
        found = exporter.scrape()
    assert found.value("weightd_refusals_total", plane="attach", reason="NotAllowedError") == 1
    failed = {"kind": "load", "reason": "BadFileError"}
    assert found.value("weightd_publish_failures_total", **failed) == 1


def test_rollbacks_and_updates_are_counted_apart(daemon: Daemon) -> None:
    daemon.load_lenet()
    daemon.client.update("lenet", EARLY)
    daemon.client.publish("lenet", FINAL, dry_run=True)
    daemon.client.rollback("lenet")
    counts = daemon.client.counters()
    assert {k: counts.events.get(k) for k in ("loaded", "updated", "published", "rolled-back")} == {
        "loaded": 1, "updated": 1, "published": None, "rolled-back": 1,
    }  # fmt: skip
    assert {kind: sum(h.counts) for kind, h in counts.staging_s.items()} == {
        "load": 1, "update": 1, "publish": 1,
    }  # fmt: skip


def test_what_a_daemon_adopts_from_the_one_before_it_is_counted(tmp_path: Path) -> None:
    keeper = (sys.executable, "-P", "-m", "weightd.daemon.keeper", str(tmp_path / "k"), "30")
    with running_daemon(prefix=keeper) as daemon, running_exporter(daemon) as exporter:
        daemon.load_lenet()
        daemon.client.publish("lenet", EARLY)
        before = daemon.client.counters()
        assert (before.adoption_s, before.adopted_versions) == (None, 0)
        assert not exporter.scrape().has("weightd_adoption_seconds")
        os.kill(daemon.client.status().pid, signal.SIGKILL)
        found = when(exporter, "weightd_adopted_versions", 2)
        assert 0 < found.value("weightd_adoption_seconds") < 10
        assert found.value("weightd_refused_adoptions") == 0
        daemon.client.shutdown()
        assert daemon.process.wait(20) == 0


def test_a_daemon_that_is_away_is_an_answer_and_not_an_error(tmp_path: Path) -> None:
    with running_daemon() as daemon, running_exporter(daemon) as exporter:
        assert exporter.scrape().value("weightd_up") == 1
        daemon.stop(signal.SIGKILL)
        found = when(exporter, "weightd_up", 0)
        assert found.series.keys() == {("weightd_up", frozenset())}
        log = tmp_path / "log"
        with CommandLine(daemon.runtime_dir).started("serve", log=log) as again:
            found = when(exporter, "weightd_up", 1)
            assert found.value("weightd_models") == 0
            again.terminate()
            again.wait(20)


# --- how it says it ------------------------------------------------------------------------


def test_prometheus_and_openmetrics_get_their_own_format(exporter: Exporter) -> None:
    kind, text = ask(OverUnix(exporter.path))
    assert kind.startswith("text/plain; version=")
    connection = OverUnix(exporter.path)
    connection.request("GET", "/", headers={"Accept": "application/openmetrics-text"})
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.read().decode().endswith("# EOF\n")
    connection.close()
    kind, only = ask(OverUnix(exporter.path), "/metrics?name[]=weightd_up")
    assert Scraped(only).series.keys() == {("weightd_up", frozenset())}
    assert Scraped(text).series.keys() > Scraped(only).series.keys()


def test_a_port_is_of_the_loopback_interface_only(shared: Daemon) -> None:
    with running_exporter(shared, "--port", 0) as exporter:
        found = re.fullmatch(r"serving metrics at http://127\.0\.0\.1:(\d+)/metrics", exporter.said)
        assert found
        _, text = ask(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10))
        assert Scraped(text).value("weightd_up") == 1


def test_who_may_connect_is_the_mode_that_was_asked_for(shared: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with running_exporter(shared, "--socket", path, "--socket-mode", "0662"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o662
    with running_exporter(shared, "--socket", path):  # the first one was killed and left its name
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_the_socket_is_gone_when_it_ends(shared: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with running_exporter(shared, "--socket", path) as exporter:
        assert path.is_socket()
        exporter.process.terminate()
        assert exporter.process.wait(10) == 0
    assert not path.exists()


def test_what_is_not_an_abandoned_socket_is_left_alone(
    shared: Daemon, exporter: Exporter, tmp_path: Path
) -> None:
    cli = CommandLine(shared.runtime_dir)
    assert "somebody serves" in cli.run("exporter").complaint()
    assert exporter.scrape().value("weightd_up") == 1
    file = tmp_path / "file"
    file.write_text("mine")
    assert "cannot listen" in cli.run("exporter", "--socket", file).complaint()
    assert file.read_text() == "mine"
    assert "no file mode" in cli.run("exporter", "--socket-mode", "rw").complaint()


def test_systemd_hands_it_sockets_and_it_ends_when_nobody_scrapes(
    shared: Daemon, tmp_path: Path
) -> None:
    path = tmp_path / "handed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        early = OverUnix(path)
        early.request("GET", "/metrics")  # it waits in the queue: systemd would start us now
        arguments = ("--exit-idle", "0.5", "--runtime-dir", shared.runtime_dir)
        process = handed_over(listener, *arguments)
        try:
            text = early.getresponse().read().decode()
            early.close()
            assert Scraped(text).value("weightd_up") == 1
            assert process.wait(10) == 0
        finally:
            kill_and_reap(process)
    assert path.is_socket()  # its name is systemd's


def test_a_socket_that_does_not_listen_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, handed_over(ours, "--runtime-dir", "/nowhere") as process:
        assert process.wait(30) == 2
        assert process.stderr is not None
        assert "does not listen" in process.stderr.read()


# --- what it costs -------------------------------------------------------------------------


def test_however_many_scrape_the_daemon_is_asked_twice_a_second(
    shared: Daemon, exporter: Exporter
) -> None:
    def asked() -> int:
        return shared.client.counters().requests["control"]["Status"]

    wait_until(lambda: exporter.scrape().value("weightd_up") == 1)
    before = asked()
    threads = [threading.Thread(target=exporter.scrape) for _ in range(4 * AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked() - before <= 3  # the burst takes less than a second


@pytest.mark.slow
def test_slow_scrapers_lose_their_places_and_hold_up_neither_others_nor_the_daemon(
    shared: Daemon, tmp_path: Path
) -> None:
    path = tmp_path / "m.sock"
    with running_exporter(shared, "--socket", path), contextlib.ExitStack() as resources:
        slow = [resources.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(AT_ONCE)]
        for sock in slow:
            sock.connect(str(path))
        answers: list[str] = []
        honest = OverUnix(path, timeout_s=DEADLINE_S + 5)
        asking = threading.Thread(target=lambda: answers.append(ask(honest)[1]))
        asking.start()

        def is_answered() -> bool:
            assert shared.client.status().pid == shared.pid
            for sock in slow:  # a byte now and then, and never an end
                with contextlib.suppress(OSError):
                    sock.send(b"x", socket.MSG_NOSIGNAL)
            return bool(answers)

        wait_until(is_answered, timeout_s=DEADLINE_S + 5)
        asking.join()
        assert Scraped(answers[0]).value("weightd_up") == 1


def test_the_exporter_loads_neither_an_engine_nor_numpy() -> None:
    program = "import sys, weightd.exporter.collector, weightd.exporter.server; print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, check=True
    )
    assert not {"numpy", "onnx", "onnxruntime", "ml_dtypes"} & set(told.stdout.split())
