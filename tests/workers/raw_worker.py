"""A worker that speaks on the attach socket by hand, and forks as it likes: no at-fork hook closes
its sockets. One JSON command a line in, one JSON answer a line out."""

import errno
import json
import mmap
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import weightd
from tests.raw import Raw
from weightd.errors import BrokenPeerError, WeightdError, to_wire
from weightd.ipc import protocol
from weightd.ipc.runtime import RuntimeFolder

folder = RuntimeFolder(Path(sys.argv[1]))
connections: list[Raw] = []
memory: list[int] = []


def current_pid() -> Any:
    return {"pid": weightd.current_pid(runtime_dir=folder.path), "getpid": os.getpid()}


def connect() -> Any:
    connections.append(Raw(folder.attach))
    return {}


def attach(model: str) -> Any:
    """On the connection, or on the one that was inherited."""
    connections[-1].say(protocol.Attach(model))
    return hear()


def connect_and_attach(model: str) -> Any:
    connect()
    return attach(model)


def pull() -> Any:
    connections[-1].say(protocol.Pull())
    return hear()


def hear() -> Any:
    try:
        message, fds = connections[-1].hear()
    except BrokenPeerError as error:
        return {"error": to_wire(error)}
    memory.extend(fds)
    if isinstance(message, protocol.Failed):
        return {"error": [message.code, message.text]}
    return {"heard": type(message).__name__}


def wait_for_the_end() -> None:
    """Until the test closes the pipe; what it writes is the parent's to read."""
    poller = select.poll()
    poller.register(sys.stdin.fileno(), 0)
    poller.poll()


def in_child(what: str, **arguments: Any) -> Any:
    """Fork a child that does this, and lives on with what it inherited."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, json.dumps(answer_to(what, arguments)).encode())
        wait_for_the_end()
        os._exit(0)
    os.close(write_end)
    answer = json.loads(os.read(read_end, 65536))
    os.close(read_end)
    return {"child": pid, "answer": answer}


def nothing() -> Any:
    return {}


def change_memory() -> Any:
    """Try all that could change the granted memory; the errno of each attempt."""
    (fd,) = memory
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: os.pwrite(fd, b"x", 0),
        "map": lambda: mmap.mmap(fd, 4096).close(),
        "write again opened": lambda: os.pwrite(again(fd), b"x", 0),
        "map again opened": lambda: mmap.mmap(again(fd), 4096).close(),
        "truncate": lambda: os.truncate(again(fd), 0),
        "grow": lambda: os.ftruncate(again(fd), 2**30),
    }
    return {name: errno_of(attempt) for name, attempt in attempts.items()}


def again(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR)


def errno_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


COMMANDS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        current_pid,
        connect,
        attach,
        connect_and_attach,
        pull,
        hear,
        in_child,
        nothing,
        change_memory,
    )
}


def answer_to(do: str, arguments: dict[str, Any]) -> Any:
    try:
        return COMMANDS[do](**arguments)
    except WeightdError as error:
        return {"error": to_wire(error)}


for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(answer_to(command.pop("do"), command)), flush=True)
