"""keeper.py: a real keeper process, whose daemon does what the test says."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.puppets import KEEPER, PYTHON, Kept, Puppet, kept_puppet

FORK_FAILS_TWICE = """
fork, failures = os.fork, [errno.EAGAIN, errno.ENOMEM]
def forked():
    if failures:
        number = failures.pop(0)
        raise OSError(number, os.strerror(number))
    return fork()
os.fork = forked
"""
TERMINATED_BEFORE_EXEC = """
execve = os.execve
def become(*args):
    os.kill(os.getppid(), signal.SIGTERM)
    while signal.SIGTERM not in signal.sigpending():
        pass
    execve(*args)
os.execve = become
"""


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Kept]:
    with kept_puppet(tmp_path) as made:
        yield made


def pass_time(seconds: float) -> None:
    """Where it is time itself that is waited for."""
    until_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until_s)


def said(puppet: Puppet, signal_name: str) -> bool:
    return signal_name in puppet.do("caught")


# --- what it holds -----------------------------------------------------------------------


def test_what_was_stored_is_handed_over_in_its_order_from_number_3_on(keeper: Kept) -> None:
    first = keeper.next()
    assert first.held == []
    for name in ("one", "two", "three"):
        first.do(f"store({name!r})")
    first.do("notify('FDSTOREREMOVE=1\\nFDNAME=two')")
    assert first.do("barrier()") == ""
    first.kill()
    second = keeper.next()
    assert second.held == ["one", "three"]
    assert second.do("os.environ['LISTEN_FDNAMES']") == "one:three"
    assert second.do("int(os.environ['LISTEN_PID'])") == second.pid
    second.do("store('four')")
    second.do("barrier()")
    second.kill()
    assert keeper.next().held == ["one", "three", "four"]


def test_nobody_but_the_daemon_itself_is_heeded(keeper: Kept) -> None:
    first = keeper.next()
    first.do("store('one')")
    first.do("in_child('', 'forged')")
    first.do("in_child('FDSTOREREMOVE=1\\nFDNAME=one')")
    first.do("in_child('READY=1')")
    assert first.do("barrier()") == ""
    first.end(2)
    assert keeper.process.wait(20) == 2  # it was never ready, whatever its child said


def test_a_forged_descriptor_is_not_handed_over(keeper: Kept) -> None:
    first = keeper.next()
    first.do("store('one')")
    first.do("in_child('', 'forged')")
    first.do("in_child('FDSTOREREMOVE=1\\nFDNAME=one')")
    first.do("barrier()")
    first.kill()
    assert keeper.next().held == ["one"]


def test_what_was_refused_is_told_at_the_barrier(keeper: Kept) -> None:
    first = keeper.next()
    for name in ("one", "one", "a:b"):
        first.do(f"store({name!r})")
    first.do("notify('FDSTORE=1\\nFDNAME=nothing')")  # its descriptor got lost
    assert first.do("barrier()") == "one, a:b, nothing"
    assert first.do("barrier()") == ""
    first.do("store('one')")
    first.kill()
    second = keeper.next()
    assert second.held == ["one"]
    assert second.do("barrier()") == ""  # what another daemon was refused


def test_a_full_store_says_so(tmp_path: Path) -> None:
    few = (140, 140)  # descriptors of the whole process: 6 are there twice while they are given
    limit = ["prlimit", f"--nofile={few[0]}:{few[1]}"]
    with kept_puppet(tmp_path, prefix=limit) as keeper:
        first = keeper.next()
        assert first.do("int(os.environ['FDSTORE'])") == 6
        for number in range(7):
            first.do(f"store('n{number}')")
        assert first.do("barrier()") == "n6"
        first.kill()
        assert keeper.next().held == [f"n{number}" for number in range(6)]


def test_more_is_held_than_the_soft_limit_of_descriptors_allows(tmp_path: Path) -> None:
    soft = ["prlimit", "--nofile=32:"]
    with kept_puppet(tmp_path, prefix=soft) as keeper:
        first = keeper.next()
        room = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 64)
        assert first.do("int(os.environ['FDSTORE'])") == room
        first.do("[store(f'n{i}') for i in range(60)]")
        assert first.do("barrier()") == ""
        first.kill()
        assert len(keeper.next().held) == 60


def test_a_daemon_that_does_not_wait_for_an_answer_does_not_end_the_keeper(keeper: Kept) -> None:
    first = keeper.next()
    first.do("store('one')")
    first.do("store('one')")
    first.do("unread_barrier()")
    assert first.do("barrier()") == ""
    first.do("notify('no words at all = \\n=\\n\\0')")
    first.do("notify('FDSTORE=1\\nFDNAME=\\nBARRIER=1')")
    first.kill()
    assert keeper.next().held == ["one"]


# --- how it starts the daemon again ------------------------------------------------------


def test_a_daemon_that_was_killed_is_started_at_once_when_it_was_well(keeper: Kept) -> None:
    first = keeper.next()
    first.do("notify('READY=1')")
    pass_time(1.05)
    first.kill()
    keeper.next()
    assert "ended with status -9; starting it again in 0 s" in keeper.log()


def test_a_daemon_that_never_becomes_ready_is_started_ever_later(keeper: Kept) -> None:
    for _ in range(3):
        keeper.next().end(1)
    keeper.next()
    told = [line.rsplit(" ", 2)[1] for line in keeper.log().splitlines()]
    assert told == ["0.1", "0.2", "0.4"]
    assert "ended with status 1; starting it again in 0.1 s" in keeper.log()


def test_a_slow_daemon_that_never_becomes_ready_is_started_ever_later_too(keeper: Kept) -> None:
    first = keeper.next()
    pass_time(1.05)
    first.end(1)
    keeper.next()
    assert "in 0.1 s" in keeper.log()


def test_a_daemon_that_asks_for_it_is_started_again_at_once(keeper: Kept) -> None:
    keeper.next().end(1)
    keeper.next().end(75)
    keeper.next()
    assert len(keeper.log().splitlines()) == 1  # of the first one


@pytest.mark.parametrize(("words", "status"), [("", 2), ("notify('READY=1')", None)])
def test_settings_that_are_wrong_end_the_keeper_only_at_first(
    keeper: Kept, words: str, status: int | None
) -> None:
    first = keeper.next()
    if words:
        first.do(words)
        first.do("barrier()")
    first.end(2)
    if status is None:
        keeper.next()
    else:
        assert keeper.process.wait(20) == status
        assert not keeper.path.exists()


def test_a_daemon_that_ends_well_ends_the_keeper(keeper: Kept) -> None:
    keeper.next().end(0)
    assert keeper.process.wait(20) == 0


def test_signals_are_passed_on_and_only_those_that_end_it_end_it(keeper: Kept) -> None:
    daemon = keeper.next()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        keeper.process.send_signal(number)
        wait_until(partial(said, daemon, number.name))
    daemon.end(75)  # it would be started again, were it not to end
    assert keeper.process.wait(20) == 0


def test_a_signal_to_end_while_there_is_no_daemon_ends_the_keeper(keeper: Kept) -> None:
    for _ in range(4):
        keeper.next().end(1)
    wait_until(lambda: "in 0.8 s" in keeper.log())
    keeper.process.terminate()
    assert keeper.process.wait(20) == 0


def test_a_silent_daemon_is_killed_and_another_one_started(tmp_path: Path) -> None:
    with kept_puppet(tmp_path, watchdog_s=0.5) as keeper:
        first = keeper.next()
        first.do("store('one')")
        assert first.do("os.environ['WATCHDOG_USEC']") == "500000"
        os.kill(first.pid, signal.SIGSTOP)
        second = keeper.next()
        assert second.held == ["one"]
        assert f"the daemon (pid {first.pid}) was silent for 0.5 s" in keeper.log()
        beats = 20
        for _ in range(beats):
            second.do("notify('WATCHDOG=1')")
            pass_time(1.0 / beats)
        assert second.do("os.getpid()") == second.pid


def test_a_daemon_that_hangs_is_aborted_so_that_it_can_say_where(tmp_path: Path) -> None:
    with kept_puppet(tmp_path, watchdog_s=0.5) as keeper:
        first = keeper.next()
        first.do("notify('READY=1')")
        keeper.next()
        assert f"the daemon (pid {first.pid}) ended with status -6" in keeper.log()


def test_a_process_that_cannot_be_forked_is_forked_later(tmp_path: Path) -> None:
    with kept_puppet(tmp_path, patch=FORK_FAILS_TWICE) as keeper:
        first = keeper.next()
        first.do("store('one')")
        first.do("barrier()")
        first.kill()
        assert keeper.next().held == ["one"]
        told = keeper.log().splitlines()
        assert "cannot be started: Resource temporarily unavailable" in told[0]
        assert "cannot be started: Cannot allocate memory; starting it again in 0.2 s" in told[1]


def test_a_signal_to_end_that_meets_the_daemon_before_it_is_one_is_not_lost(
    tmp_path: Path,
) -> None:
    with kept_puppet(tmp_path, patch=TERMINATED_BEFORE_EXEC) as keeper:
        daemon = keeper.next()
        wait_until(partial(said, daemon, "SIGTERM"))
        daemon.end(75)
        assert keeper.process.wait(20) == 0


def test_what_our_own_manager_gave_us_is_not_the_daemons(tmp_path: Path) -> None:
    """A keeper that systemd started: of its watchdog the daemon would take itself not to be
    meant, send no heartbeat, and be killed for it."""
    ours = {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "7", "WEIGHTD_UNIT": "x.service"}
    with kept_puppet(tmp_path, env={**os.environ, **ours, "KEPT": "yes"}) as keeper:
        daemon = keeper.next()
        assert daemon.do("[n for n in os.environ if n in ('WATCHDOG_PID', 'WEIGHTD_UNIT')]") == []
        assert daemon.do("os.environ['WATCHDOG_USEC']") == "0"
        assert daemon.do("os.environ['KEPT']") == "yes"


def test_a_log_that_nobody_reads_does_not_end_the_keeper(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with kept_puppet(tmp_path, stderr=write_end) as keeper:
        os.close(write_end)
        os.close(read_end)
        first = keeper.next()
        first.do("store('one')")
        first.do("barrier()")
        first.kill()
        assert keeper.next().held == ["one"]


def test_a_socket_that_a_killed_keeper_left_is_replaced(tmp_path: Path) -> None:
    with kept_puppet(tmp_path) as keeper:
        first = keeper.next()
        keeper.process.kill()
        keeper.process.wait()
        first.kill()
        assert keeper.path.is_socket()
    (tmp_path / "puppets").unlink()
    with kept_puppet(tmp_path) as again:
        daemon = again.next()
        daemon.do("store('one')")
        assert daemon.do("barrier()") == ""
        assert again.path.stat().st_mode & 0o777 == 0o600


def test_as_the_first_process_of_a_container_it_reaps_orphans(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    probe = subprocess.run([*unshare, "true"], capture_output=True, check=False, text=True)
    if probe.returncode:
        pytest.skip(f"no PID namespace can be made here: {probe.stderr.strip()}")
    with kept_puppet(tmp_path, prefix=[*unshare, "--kill-child"]) as keeper:
        daemon = keeper.next()
        orphan = daemon.do("orphan()")
        wait_until(lambda: not daemon.do(f"os.path.exists('/proc/{orphan}')"))
        assert daemon.do("os.getppid()") == 1


# --- what it is --------------------------------------------------------------------------


def test_it_is_small_and_imports_the_standard_library_alone() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    found = subprocess.run(
        [*PYTHON, "-c", code, str(KEEPER)], capture_output=True, text=True, check=True
    )
    roots = {name.partition(".")[0] for name in found.stdout.split()} - {"__main__"}
    assert roots <= sys.stdlib_module_names
    assert len(KEEPER.read_text().splitlines()) < 200
