"""Where the exporter listens: sockets that systemd hands over, or its own: one in the file system,
one on the loopback interface. Never on another one: what it tells is for this machine."""

import contextlib
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from weightd.errors import AlreadyRunningError, SettingsError

_FIRST_FD = 3  # of those that systemd hands over
_BACKLOG = 64


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd hands over (LISTEN_FDS); [] without. They are the
    caller's, and no child of this process gets them."""
    is_ours = environ.get("LISTEN_PID") == str(os.getpid())
    number = environ.get("LISTEN_FDS", "0") if is_ours else "0"
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    found: list[socket.socket] = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(number)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        found.append(sock)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise SettingsError(
                f"descriptor {fd}, which systemd hands over, does not listen; the socket unit "
                "needs ListenStream= and Accept=no"
            )
    return found


def on_path(path: Path, mode: int) -> socket.socket:
    """Listen at a path, in the place of a socket that nobody listens at any more."""
    try:
        _remove_abandoned(path)
        with contextlib.ExitStack() as on_error:
            sock = on_error.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            os.fchmod(sock.fileno(), mode)  # so that it is never more open than this
            sock.bind(os.fspath(path))
            path.chmod(mode)  # bind takes the umask away; nobody can connect before listen
            sock.listen(_BACKLOG)
            on_error.pop_all()
    except OSError as error:
        raise SettingsError(f"cannot listen at {path}: {error.strerror or error}") from error
    return sock


def on_loopback(port: int) -> socket.socket:
    """Listen on 127.0.0.1."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(f"cannot listen on port {port}: {error.strerror or error}") from error


def name_of(sock: socket.socket) -> str:
    """Where it listens, for people."""
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{address}"
    host, port = address[:2]
    return f"http://{host}:{port}/metrics"


def _remove_abandoned(path: Path) -> None:
    if not path.is_socket():
        return  # nothing is there, or something that bind will complain of
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full: somebody listens
    raise AlreadyRunningError(f"somebody serves {path} already; stop it, or give another --socket")
