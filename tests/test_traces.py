"""What weightd and its engine leave in the file system: nothing."""

from pathlib import Path

import pytest

from tests.daemons import running_daemon, running_worker


def test_loading_and_predicting_leave_nothing_in_home_or_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    with running_daemon() as daemon, running_worker(daemon) as worker:
        daemon.load_lenet()
        daemon.client.allow("lenet", worker.ask("current_pid")["pid"])
        worker.ask("attach", model="lenet")
        worker.ask("predict", model="lenet")
        worker.ask("detach", model="lenet")
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.process.wait(10) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
