"""Commands about the processes that use models: who may, who does."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightd.cli.options import AsJson, ModelName, RuntimeDir, connect
from weightd.cli.screen import print_json, print_line, print_table
from weightd.daemon.accounts import user_name

if TYPE_CHECKING:
    from weightd.ipc.protocol import Revoked
    from weightd.ipc.status import WorkerStatus

_NOT_KILLED = 1  # exit status
_COLUMNS = (
    "PID>",
    "user",
    "by",
    "model",
    "version>",
    "since",
    "switches>",
    "last pause>",
    "lag",
    "other engine",
)

User = Annotated[
    list[str] | None,
    typer.Option("--user", metavar="USER", help="A user, by name or number; may be repeated."),
]
Group = Annotated[
    list[str] | None,
    typer.Option("--group", metavar="GROUP", help="A group, by name or number; may be repeated."),
]
Unit = Annotated[
    list[str] | None,
    typer.Option(
        "--unit",
        metavar="UNIT",
        help="A systemd unit of the system's, such as a.service; * stands for any text; may be "
        "repeated.",
    ),
]


def allow(  # noqa: PLR0913 - each is an option
    name: ModelName,
    pids: Annotated[
        list[int] | None, typer.Argument(metavar="[PID...]", help="As the daemon sees them.", min=1)
    ] = None,
    *,
    user: User = None,
    group: Group = None,
    unit: Unit = None,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Let processes attach a model: living ones by PID, or all of a user, group or unit.

    Prints the handle for just the processes named by PID; who comes by a rule needs none.
    An entry for a PID is the process, not its number: it ends with it. A rule stays until
    it is revoked. (JSON has the handle as a string: it is larger than what most JSON
    readers keep exactly.)

    \b
    Examples:
      weightd allow lenet 4711
      weightd allow lenet $(pgrep -f my_worker.py)
      weightd allow lenet --user alice --group ml --unit 'inference@*.service'
    """
    rules = _rules(user, group, unit)
    if not pids and not rules:
        raise typer.BadParameter("name a PID, --user, --group or --unit")
    handle: int | None = None
    notes: tuple[str, ...] = ()
    with connect(runtime_dir) as client:
        if rules:
            notes = client.allow_rules(name, rules)
        if pids:
            handle = client.allow(name, pids)
    if as_json:
        document = {"model": name, "pids": pids or [], "rules": rules, "notes": notes}
        print_json(document | {"handle": None if handle is None else str(handle)})
        return
    if handle is not None:
        print_line(str(handle))
    for rule in rules:
        print_line(f"{name} lets in {rule}")
    for note in notes:
        print_line(f"note: {note}")


def deny(  # noqa: PLR0913 - each is an option
    name: ModelName,
    *,
    user: User = None,
    group: Group = None,
    unit: Unit = None,
    lift: Annotated[bool, typer.Option("--lift", help="Take the denial back.")] = False,
    kill: Annotated[
        bool, typer.Option("--kill", help="End those that still map it, by SIGKILL.")
    ] = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Let nobody of a user, group or unit attach a model, whoever else lets them in.

    Those who have it attached lose the right, as by revoke. To lift what is not denied
    changes nothing, and says so.

    \b
    Examples:
      weightd deny lenet --user mallory
      weightd deny lenet --user mallory --lift
    """
    rules = _rules(user, group, unit)
    if not rules:
        raise typer.BadParameter("name a --user, --group or --unit")
    with connect(runtime_dir) as client:
        revoked = client.deny(name, rules, lift=lift, kill=kill)
    idle = _without(rules, revoked.rules) if lift else []
    if as_json:
        document = {"model": name, "lifted": lift} | _document(revoked)
        print_json(document | {"rules": _without(rules, idle), "not_there": idle})
    else:
        for rule in _without(rules, idle):
            print_line(f"{name} denies {rule}{' no more' if lift else ''}")
        for rule in idle:
            print_line(f"{name} did not deny {rule}: there was nothing to lift")
        if revoked.pids:
            _tell(name, revoked)
    _exit_by(revoked)


def revoke(  # noqa: PLR0913 - each is an option
    name: ModelName,
    pids: Annotated[
        list[int] | None,
        typer.Argument(metavar="[PID...]", help="Without any, and without a rule: all.", min=1),
    ] = None,
    *,
    user: User = None,
    group: Group = None,
    unit: Unit = None,
    kill: Annotated[
        bool, typer.Option("--kill", help="End those that still map it, by SIGKILL.")
    ] = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """End the right of processes to attach and to get new versions, at once.

    Rules that were given to let a user, group or unit in are taken back by their name.
    What processes have mapped stays readable until they exit. To revoke what was not allowed
    changes nothing, and says so. With --kill the exit status is 1 when one could not be killed.

    \b
    Examples:
      weightd revoke lenet 4711
      weightd revoke lenet --user alice
      weightd revoke lenet --kill
    """
    rules = _rules(user, group, unit)
    with connect(runtime_dir) as client:
        revoked = client.revoke(name, pids or (), rules=rules, kill=kill)
    idle = [str(pid) for pid in pids or () if pid not in revoked.pids]
    idle += _without(rules, revoked.rules)
    if as_json:
        print_json({"model": name} | _document(revoked) | {"not_there": idle})
    else:
        if revoked.pids or revoked.rules or not idle:
            _tell(name, revoked)
        for each in idle:
            print_line(f"{name} did not let in {each}: there was nothing to revoke")
    _exit_by(revoked)


def _rules(users: list[str] | None, groups: list[str] | None, units: list[str] | None) -> list[str]:
    """The options as rules, names made numbers."""
    from weightd.daemon.accounts import Accounts
    from weightd.daemon.policy import Rule

    texts = [f"{'uid' if user.isdecimal() else 'user'}:{user}" for user in users or ()]
    texts += [f"{'gid' if group.isdecimal() else 'group'}:{group}" for group in groups or ()]
    texts += [f"unit:{unit}" for unit in units or ()]
    return [str(Rule.parse(text, Accounts())) for text in texts]


def _without(rules: Iterable[str], others: Collection[str]) -> list[str]:
    return [rule for rule in rules if rule not in others]


def _document(revoked: "Revoked") -> dict[str, Any]:
    return {field: getattr(revoked, field) for field in revoked.__struct_fields__}


def _exit_by(revoked: "Revoked") -> None:
    if revoked.not_killed:
        raise typer.Exit(_NOT_KILLED)


def _tell(name: str, revoked: "Revoked") -> None:
    print_line(f"{name} is revoked for {_listed(revoked.pids)}")
    for rule in revoked.rules:
        print_line(f"taken back: {rule}")
    if revoked.killed:
        print_line(f"killed: {_listed(revoked.killed)}")
    if revoked.still_mapped:
        print_line(f"mapped until they exit: {_listed(revoked.still_mapped)}")
    for reason in revoked.not_killed:
        print_line(f"not killed: {reason}")
    for rule in revoked.standing:
        print_line(f"{rule} stands, and lets such processes in again: revoke or deny that too")


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
        rows = [msgspec.to_builtins(worker) | {"user": user_name(worker.uid)} for worker in workers]
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
        f"{user_name(worker.uid)} ({worker.uid})",
        worker.by,
        worker.model,
        str(worker.version),
        since,
        str(worker.switches),
        pause,
        worker.lag or "-",
        f"{worker.engine}: {worker.note}" if worker.note else "-",
    )
