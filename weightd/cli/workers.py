"""Commands about the processes that use models: who may, who does."""

import pwd
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.options import AsJson, ModelName, RuntimeDir, connect
from weightd.cli.screen import print_json, print_line, print_table

if TYPE_CHECKING:
    from weightd.ipc.protocol import Revoked
    from weightd.ipc.status import WorkerStatus

_NOT_KILLED = 1  # exit status
_COLUMNS = (
    "PID>",
    "user",
    "model",
    "version>",
    "since",
    "switches>",
    "last pause>",
    "lag",
    "other engine",
)

Pids = Annotated[
    list[int], typer.Argument(metavar="PID...", help="As the daemon sees them.", min=1)
]


def allow(
    name: ModelName, pids: Pids, runtime_dir: RuntimeDir = None, as_json: AsJson = False
) -> None:
    """Let living processes attach a model; prints the handle for just these.

    An entry is the process, not its number: it ends with it. (JSON has the handle as a
    string: it is larger than what most JSON readers keep exactly.)

    \b
    Examples:
      weightd allow lenet 4711
      weightd allow lenet $(pgrep -f my_worker.py)
    """
    with connect(runtime_dir) as client:
        handle = client.allow(name, pids)
    if as_json:
        print_json({"model": name, "pids": pids, "handle": str(handle)})
    else:
        print_line(str(handle))


def revoke(
    name: ModelName,
    pids: Annotated[
        list[int] | None, typer.Argument(metavar="[PID...]", help="Without any: all.", min=1)
    ] = None,
    kill: Annotated[
        bool, typer.Option("--kill", help="End those that still map it, by SIGKILL.")
    ] = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """End the right of processes to attach and to get new versions, at once.

    What they have mapped stays readable until they exit. With --kill the exit status is 1
    when one could not be killed.

    \b
    Examples:
      weightd revoke lenet 4711
      weightd revoke lenet --kill
    """
    with connect(runtime_dir) as client:
        revoked = client.revoke(name, pids or (), kill=kill)
    if as_json:
        document = {field: getattr(revoked, field) for field in revoked.__struct_fields__}
        print_json({"model": name} | document)
    else:
        _tell(name, revoked)
    if revoked.not_killed:
        raise typer.Exit(_NOT_KILLED)


def _tell(name: str, revoked: "Revoked") -> None:
    print_line(f"{name} is revoked for {_listed(revoked.pids)}")
    if revoked.killed:
        print_line(f"killed: {_listed(revoked.killed)}")
    if revoked.still_mapped:
        print_line(f"mapped until they exit: {_listed(revoked.still_mapped)}")
    for reason in revoked.not_killed:
        print_line(f"not killed: {reason}")


def _listed(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids)) or "nobody"


def ps(runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """List the workers: who uses which version, since when, and how far behind.

    \b
    Examples:
      weightd ps
      weightd ps --json | jq '.workers[] | select(.lag != "")'
    """
    import msgspec

    with connect(runtime_dir) as client:
        workers = client.status().workers
    if as_json:
        rows = [msgspec.to_builtins(worker) | {"user": _user(worker.uid)} for worker in workers]
        print_json({"workers": rows})
    elif workers:
        print_table(_COLUMNS, map(_row, workers))
    else:
        print_line("no workers are attached")


def _row(worker: "WorkerStatus") -> tuple[str, ...]:
    since = datetime.fromtimestamp(worker.since_unix_s).strftime("%Y-%m-%d %H:%M:%S")
    pause = f"{worker.last_pause_us:.1f} µs" if worker.switches else "-"
    return (
        str(worker.pid),
        f"{_user(worker.uid)} ({worker.uid})",
        worker.model,
        str(worker.version),
        since,
        str(worker.switches),
        pause,
        worker.lag or "-",
        f"{worker.engine}: {worker.note}" if worker.note else "-",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
