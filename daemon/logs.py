"""Where the daemon's log lines go: to stderr, or to systemd's journal, with priorities and
fields."""

import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

AUDIT = "weightd.audit"  # the logger of the record of decisions
JOURNAL = Path("/run/systemd/journal/socket")
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def begin(level: str, environ: Mapping[str, str]) -> None:
    """Log from here on."""
    if _is_journal(environ.get("JOURNAL_STREAM", "")):
        logging.basicConfig(handlers=[JournalHandler(JOURNAL)])
    else:
        logging.basicConfig(format=_FORMAT)
    set_level(level)
    logging.getLogger(AUDIT).setLevel(logging.INFO)  # a record, at whatever level


def set_level(level: str) -> None:
    logging.getLogger().setLevel(level)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What to give a logging call as `extra`, for who looks for a model or process in the
    journal: `journalctl WEIGHTD_MODEL=lenet`."""
    given = {name: value for name, value in values.items() if value not in ("", None)}
    return {"fields": {f"WEIGHTD_{name.upper()}": value for name, value in given.items()}}


def _is_journal(stream: str) -> bool:
    """Whether stderr is the stream that systemd says leads to its journal: 'device:inode'."""
    found = os.fstat(2)
    return stream == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Writes records by the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL). One that
    cannot be written is lost: the daemon waits for no log."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the rest are fields
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        entry: dict[str, object] = {
            "MESSAGE": self.format(record),
            "PRIORITY": priority,
            "SYSLOG_IDENTIFIER": "weightd",
            "LOGGER": record.name,
            **getattr(record, "fields", {}),
        }
        raw = b"".join(_field(name, str(value)) for name, value in entry.items())
        try:
            self._socket.sendto(raw, self._path)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    """The long form, in which a value may have line breaks."""
    raw = value.encode("utf-8", "replace")
    return name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
