"""A keeper's daemon in a test's hands: connects to the test's socket, tells what it was given, and
evaluates what the test sends, an expression a line. Imports little, so that it starts fast."""

import array
import json
import os
import signal
import socket
import sys


def notify(text: str, fds: "list[int] | tuple[int, ...]" = ()) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([text.encode()], rights, 0, os.environ["NOTIFY_SOCKET"])
    sock.close()


def store(name: str) -> None:
    """A new memfd that holds its own name."""
    fd = os.memfd_create(name)
    os.write(fd, name.encode())
    notify(f"FDSTORE=1\nFDNAME={name}", [fd])
    os.close(fd)


def barrier() -> str:
    ours, theirs = os.pipe()
    notify("BARRIER=1", [theirs])
    os.close(theirs)
    said = b""
    while raw := os.read(ours, 4096):
        said += raw
    os.close(ours)
    return said.decode()


def unread_barrier() -> None:
    """Ask, and be gone before the answer."""
    ours, theirs = os.pipe()
    notify("BARRIER=1", [theirs])
    os.close(ours)
    os.close(theirs)


def in_child(text: str, name: str = "") -> int:
    """A child of ours says this."""
    pid = os.fork()
    if not pid:
        store(name) if name else notify(text)
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def orphan() -> int:
    """The PID of a process whose parent has ended."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        grandchild = os.fork()
        if grandchild:
            os.write(write_end, b"%d" % grandchild)
        os._exit(0)
    os.waitpid(pid, 0)
    return int(os.read(read_end, 20))


def held() -> "list[str]":
    """What each descriptor from number 3 on holds."""
    count = int(os.environ["LISTEN_FDS"])
    return [os.pread(fd, 100, 0).decode() for fd in range(3, 3 + count)]


caught: "list[str]" = []
for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(each, lambda number, _: caught.append(signal.Signals(number).name))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [each])
given = held()  # before anything else has a number
channel = socket.socket(socket.AF_UNIX)
channel.connect(sys.argv[1])
lines = channel.makefile("rw")
print(json.dumps({"pid": os.getpid(), "held": given}), file=lines, flush=True)
for line in lines:
    print(json.dumps(eval(line)), file=lines, flush=True)
