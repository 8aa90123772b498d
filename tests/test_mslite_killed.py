"""What masters that a daemon worked for leave, when they are killed."""

from contextlib import ExitStack

from tests.daemons import Worker, running_daemon
from tests.helpers import wait_until
from tests.mslite import digest_of, pid_of, share, use


def test_with_a_daemon_workers_still_attach_when_the_master_is_gone() -> None:
    with running_daemon() as daemon, ExitStack() as stack:
        master, worker, late, successor = (
            Worker(daemon.runtime_dir, script="sharing_worker.py") for _ in "1234"
        )
        for process in (master, worker, late, successor):
            stack.callback(process.close)
        handle = share(master, worker, late)
        use(worker, handle)
        (name,) = daemon.client.status().models
        assert name.startswith(f"mslite.{pid_of(master)}.")
        master.process.kill()
        master.process.wait()
        assert use(late, handle) == {"handle": handle}
        assert digest_of(late) == digest_of(worker)
        share(successor, worker)  # which leaves alone what is in use
        assert name in daemon.client.status().models
        for process in (worker, late, successor):
            process.close()
        wait_until(lambda: not daemon.client.status().workers)


def test_what_a_killed_master_left_goes_when_the_next_one_shares() -> None:
    with running_daemon() as daemon, ExitStack() as stack:
        killed, successor, worker = (
            Worker(daemon.runtime_dir, script="sharing_worker.py") for _ in "123"
        )
        for process in (killed, successor, worker):
            stack.callback(process.close)
        share(killed, worker)
        killed.process.kill()
        killed.process.wait()
        wait_until(lambda: not daemon.client.status().workers)
        share(successor, worker)
        (name,) = daemon.client.status().models
        assert name.startswith(f"mslite.{pid_of(successor)}.")
