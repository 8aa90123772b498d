"""Attaching: who may, what it gives, and how it ends."""

from tests.daemons import Daemon, Worker


def test_an_allowed_worker_predicts_on_the_shared_copy(lenet: Daemon, worker: Worker) -> None:
    assert worker.ask("attach", model="lenet") == {"version": 1, "engine": "plain"}
    assert worker.ask("predict", model="lenet")["version"] == 1
    assert [w.pid for w in lenet.client.status().workers] == [worker.pid]
