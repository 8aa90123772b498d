"""Who a process is: the kernel's word about it, and never a number, a name or an inheritance."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weightd
from tests.daemons import WORKERS, Daemon, Worker, running_daemon, running_worker
from tests.helpers import wait_until
from tests.raw import daemon_unharmed, refused
from weightd.errors import NoDaemonError, NotAllowedError
from weightd.ipc.peer import Peer
from weightd.ipc.status import ModelStatus

OWN_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
USER = 1000
NOBODY = 65534


def as_user(uid: int) -> tuple[str, ...]:
    return (sys.executable, str(WORKERS / "as_user.py"), str(uid))


def lenet_of(daemon: Daemon) -> ModelStatus:
    return daemon.client.status().models["lenet"]


def workers_of(daemon: Daemon) -> list[int]:
    return [worker.pid for worker in daemon.client.status().workers]


def connections_of(daemon: Daemon) -> int:
    """The daemon's ends of attach connections, in the kernel's list of Unix sockets."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {daemon.folder.attach}") for line in lines) - 1  # the listener


def is_refused(answer: Any) -> bool:
    return bool(answer["error"][0] == "NotAllowedError")


@pytest.fixture(scope="module", params=[False, True], ids=["in the loop", "in threads"])
def public(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon with lenet that lets other users' processes reach its attach socket."""
    with running_daemon(attach_public=True, read_in_threads=request.param) as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        daemon.load_lenet()
        yield daemon


@pytest.fixture
def lenet(public: Daemon) -> Iterator[Daemon]:
    """That daemon, which must be as it was when the test has ended."""
    with daemon_unharmed(public):
        yield public
    wait_until(lambda: lenet_of(public).allowed_pids == ())
    assert public.client.status().workers == ()


@pytest.fixture
def raw(lenet: Daemon) -> Iterator[Worker]:
    """An allowed worker that speaks by hand and is connected."""
    with running_worker(lenet, script="raw_worker.py") as worker:
        lenet.client.allow("lenet", worker.ask("current_pid")["pid"])
        worker.ask("connect")
        yield worker


# --- forks -------------------------------------------------------------------------------


def test_no_descriptor_of_a_peer_is_left_to_the_programs_that_the_daemon_starts() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        peer = Peer.of(ours)
        with peer.process:
            assert not os.get_inheritable(peer.process.pidfd)


def test_a_forked_child_cannot_use_its_parents_attachment(lenet: Daemon) -> None:
    with running_worker(lenet) as worker:
        lenet.client.allow("lenet", worker.pid)
        worker.ask("attach", model="lenet")
        assert worker.ask("fork_and_wait", model="lenet")["in_child"]["error"][0] == "ForkedError"
        assert worker.ask("predict", model="lenet")["version"] == 1


def test_a_child_of_an_allowed_process_is_not_allowed(lenet: Daemon, raw: Worker) -> None:
    child = raw.ask("in_child", what="connect_and_attach", model="lenet")
    assert is_refused(child["answer"]), child
    assert str(child["child"]) in child["answer"]["error"][1]
    assert raw.ask("attach", model="lenet") == {"heard": "Granted"}


def test_a_child_that_attaches_on_an_inherited_connection_closes_it(
    lenet: Daemon, raw: Worker
) -> None:
    child = raw.ask("in_child", what="attach", model="lenet")
    assert child["answer"]["error"][0] == "BrokenPeerError"
    assert workers_of(lenet) == []
    assert "came from another process" in lenet.log()


def test_a_child_that_speaks_on_an_inherited_lease_ends_it(lenet: Daemon, raw: Worker) -> None:
    raw.ask("attach", model="lenet")
    assert workers_of(lenet) == [raw.pid]
    child = raw.ask("in_child", what="pull")
    assert child["answer"]["error"][0] == "BrokenPeerError"
    wait_until(lambda: workers_of(lenet) == [])
    assert raw.ask("hear")["error"][0] == "BrokenPeerError"


def test_a_child_that_holds_the_connection_does_not_keep_its_dead_parents_lease(
    lenet: Daemon, raw: Worker
) -> None:
    lenet.load_lenet("gone")
    lenet.client.allow("gone", raw.pid)
    raw.ask("attach", model="gone")
    assert connections_of(lenet) == 1
    child = raw.ask("in_child", what="nothing")["child"]
    before = lenet.client.status().held_nbytes
    lenet.client.unload("gone")
    assert lenet.client.status().held_nbytes == before
    raw.process.kill()
    raw.process.wait(10)
    os.kill(child, 0)  # it lives, and has the socket
    wait_until(lambda: lenet.client.status().held_nbytes < before)
    assert workers_of(lenet) == []
    wait_until(lambda: connections_of(lenet) == 0)


# --- PID namespaces, and PIDs that come again --------------------------------------------


@pytest.mark.root
def test_a_worker_in_another_pid_namespace_attaches_under_its_outer_pid(lenet: Daemon) -> None:
    with running_worker(lenet, prefix=OWN_PID_NAMESPACE) as worker:
        known = worker.ask("current_pid")
        assert known["getpid"] == 1
        assert Path(f"/proc/{known['pid']}/stat").exists()
        assert isinstance(refused(worker, "attach", model="lenet"), NotAllowedError)
        lenet.client.allow("lenet", known["pid"])
        assert worker.ask("attach", model="lenet")["version"] == 1
        assert workers_of(lenet) == [known["pid"]]


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A daemon with lenet inside a PID namespace of its own, and who commands it."""
    folder = tmp_path_factory.mktemp("ns") / "run"
    worker = Worker(folder, script="namespace.py", prefix=OWN_PID_NAMESPACE)
    try:
        worker.ask("allowed")
        yield worker
    finally:
        worker.close()


def folder_of(namespace: Worker) -> Path:
    args = namespace.process.args
    assert isinstance(args, list)
    return Path(args[-1])


@pytest.mark.root
def test_a_process_with_the_number_of_an_allowed_one_is_refused(namespace: Worker) -> None:
    answer = namespace.ask("whitelisted_then_recycled")
    assert is_refused(answer["bare"]), answer
    assert is_refused(answer["handle"]), answer
    assert answer["allowed"] == []


@pytest.mark.root
def test_a_daemon_that_slept_while_the_number_came_again_refuses_it(namespace: Worker) -> None:
    answer = namespace.ask("recycled_in_the_daemons_sleep")
    assert is_refused(answer["handle"]), answer
    assert answer["allowed"] == []


@pytest.mark.root
def test_allowing_a_number_whose_asker_has_ended_is_refused(namespace: Worker) -> None:
    answer = namespace.ask("asked_then_recycled")
    assert is_refused(answer["refused"]), answer
    assert "has ended" in answer["refused"]["error"][1]
    assert is_refused(answer["then"]), answer
    assert answer["allowed"] == []


@pytest.mark.root
def test_a_process_that_the_kernel_cannot_name_to_the_daemon_is_refused_with_the_reason(
    namespace: Worker,
) -> None:
    folder = folder_of(namespace)
    with pytest.raises(NotAllowedError, match="PID namespace"):
        weightd.current_pid(runtime_dir=folder)
    with (
        weightd.Client(folder, timeout_s=5) as client,
        pytest.raises(NotAllowedError, match="PID namespace"),
    ):
        client.status()


# --- users -------------------------------------------------------------------------------


@pytest.mark.root
def test_another_users_worker_attaches_when_allowed_and_only_then(lenet: Daemon) -> None:
    with running_worker(lenet, prefix=as_user(USER)) as worker:
        pid = worker.ask("current_pid")["pid"]
        assert isinstance(refused(worker, "attach", model="lenet"), NotAllowedError)
        error = refused(
            worker, "attach", model="secret"
        )  # which models there are is not its to know
        assert isinstance(error, NotAllowedError)
        assert "lenet" not in str(error)
        lenet.client.allow("lenet", pid)
        assert worker.ask("attach", model="lenet")["version"] == 1
        assert worker.ask("predict", model="lenet")["version"] == 1
        assert [w.uid for w in lenet.client.status().workers] == [USER]


@pytest.mark.root
def test_another_users_process_cannot_reach_control_and_admin_sockets(lenet: Daemon) -> None:
    with running_worker(lenet, script="intruder.py", prefix=as_user(USER)) as worker:
        for do in ("status", "load", "allow", "events"):
            error = refused(worker, do)
            assert isinstance(error, NoDaemonError)
            assert "belongs to another user" in str(error)


@pytest.mark.root
def test_a_private_daemon_is_out_of_reach_of_other_users() -> None:
    with running_daemon() as daemon:
        daemon.runtime_dir.parent.chmod(0o711)
        with running_worker(daemon, prefix=as_user(USER)) as worker:
            error = refused(worker, "current_pid")
            assert isinstance(error, NoDaemonError)
            assert "attach_public" in str(error)
        daemon.runtime_dir.chmod(0o711)  # even where the folder was opened, the socket is not
        with running_worker(daemon, prefix=as_user(USER)) as worker:
            assert isinstance(refused(worker, "current_pid"), NoDaemonError)


@pytest.mark.root
def test_nobody_is_refused_even_when_allowed(lenet: Daemon) -> None:
    with running_worker(lenet, prefix=as_user(NOBODY)) as worker:
        lenet.client.allow("lenet", worker.pid)
        for do, arguments in (("current_pid", {}), ("attach", {"model": "lenet"})):
            error = refused(worker, do, **arguments)
            assert isinstance(error, NotAllowedError)
            assert "uid 65534" in str(error)
        assert workers_of(lenet) == []


@pytest.mark.root
@pytest.mark.parametrize("prefix", [(), as_user(USER)], ids=["the daemon's user", "another user"])
def test_an_attached_worker_cannot_change_the_memory(
    lenet: Daemon, prefix: tuple[str, ...]
) -> None:
    with running_worker(lenet, script="raw_worker.py", prefix=prefix) as worker:
        lenet.client.allow("lenet", worker.ask("current_pid")["pid"])
        worker.ask("connect")
        assert worker.ask("attach", model="lenet") == {"heard": "Granted"}
        answers = worker.ask("change_memory")
        assert answers.pop("write") == "EBADF"  # the descriptor itself is read-only
        assert answers.pop("map") == "EACCES"
        assert set(answers.values()) == {"EPERM"}, answers
        assert worker.ask("pull") == {"heard": "Granted"}
