"""logs.py: where log lines go, and what the journal knows of them."""

import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from tests.daemons import Daemon
from weightd.daemon import audit, logs
from weightd.daemon.audit import Audit
from weightd.daemon.loop import Loop


class Journal:
    """A journal's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        """The next one, read as journald reads it."""
        raw = self._socket.recv(65536)
        found: dict[str, str] = {}
        while raw:
            name, _, raw = raw.partition(b"\n")
            (nbytes,) = struct.unpack_from("<Q", raw)
            found[name.decode()] = raw[8 : 8 + nbytes].decode()
            assert raw[8 + nbytes : 9 + nbytes] == b"\n"
            raw = raw[9 + nbytes :]
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    handler = logs.JournalHandler(made.path)
    root = logging.getLogger("weightd")
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.DEBUG)
    yield made
    root.setLevel(before)
    root.removeHandler(handler)
    handler.close()
    made.close()


@pytest.mark.parametrize(
    ("level", "priority"),
    [("ERROR", 3), ("CRITICAL", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_a_line_has_a_priority_and_its_fields(journal: Journal, level: str, priority: int) -> None:
    fields = logs.fields(event="published", model="lenet", version=3, pid=0)
    logging.getLogger("weightd.x").log(getattr(logging, level), "a\nb=%d", 1, extra=fields)
    assert journal.entry() == {
        "MESSAGE": "a\nb=1",
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "weightd",
        "LOGGER": "weightd.x",
        "WEIGHTD_EVENT": "published",
        "WEIGHTD_MODEL": "lenet",
        "WEIGHTD_VERSION": "3",
        "WEIGHTD_PID": "0",
    }


def test_a_line_without_fields_and_one_that_is_no_utf_8_arrive(journal: Journal) -> None:
    logging.getLogger("weightd.x").info("\udcff")
    assert journal.entry()["MESSAGE"] == "?"


def test_a_decision_has_its_fields(journal: Journal) -> None:
    loop = Loop()
    Audit(loop).note("attach", "refused", pid=7, uid=1000, reason="two words")
    entry = journal.entry()
    assert entry["MESSAGE"] == 'what=attach outcome=refused pid=7 uid=1000 reason="two words"'
    found = {name: value for name, value in entry.items() if name.startswith("WEIGHTD_")}
    assert found == {
        "WEIGHTD_WHAT": "attach",
        "WEIGHTD_OUTCOME": "refused",
        "WEIGHTD_PID": "7",
        "WEIGHTD_UID": "1000",
        "WEIGHTD_REASON": "two words",
    }
    assert audit.log.name == logs.AUDIT
    Audit(loop).note("attach", "refused", pid=7, uid=1000, reason="x" * 10**6)
    assert journal.entry()["WEIGHTD_REASON"] == "x" * 400  # else the journal would not take it
    loop.close()


def test_what_the_journal_does_not_take_is_lost_and_hinders_nobody(journal: Journal) -> None:
    journal.close()
    logging.getLogger("weightd.x").info("nobody hears")


BEGIN = """
import logging, sys
from pathlib import Path
from weightd.daemon import logs
logs.JOURNAL = Path(sys.argv[1])
logs.begin("ERROR", {"JOURNAL_STREAM": sys.argv[2]})
logging.getLogger("weightd.x").info("not told")
logging.getLogger("weightd.x").error("told")
logging.getLogger("weightd.audit").info("always")
"""


@pytest.mark.parametrize("is_journal", [True, False])
def test_lines_go_to_the_journal_only_where_stderr_does(tmp_path: Path, is_journal: bool) -> None:
    journal = Journal(tmp_path / "journal")
    with (tmp_path / "err").open("w+") as err:
        found = os.fstat(err.fileno())
        stream = f"{found.st_dev}:{found.st_ino + (not is_journal)}"
        run([sys.executable, "-c", BEGIN, str(journal.path), stream], stderr=err, check=True)
        err.seek(0)
        lines = [line.split(" ", 2)[2] for line in err.read().splitlines()]
    if is_journal:
        assert lines == []
        assert [journal.entry()["MESSAGE"] for _ in range(2)] == ["told", "always"]
    else:
        assert lines == ["ERROR weightd.x: told", "INFO weightd.audit: always"]
    with pytest.raises(BlockingIOError):
        journal.entry()
    journal.close()


def test_a_daemon_that_a_watchdog_ends_says_where_each_thread_was(daemon: Daemon) -> None:
    assert daemon.stop(signal.SIGABRT) == -signal.SIGABRT
    said = daemon.log().partition("Fatal Python error: Aborted")[2]
    assert "most recent call first" in said
    assert "loop.py" in said
    assert "in run" in said
