"""Commands that look at a whole daemon, follow it, and end it."""

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightd.cli.options import AsJson, RuntimeDir, connect
from weightd.cli.screen import print_json, print_line, print_table, size
from weightd.daemon.accounts import group_name, user_name
from weightd.ipc.words import counted

if TYPE_CHECKING:
    from weightd.ipc.protocol import DaemonStatus
    from weightd.ipc.status import ModelStatus, StagingStatus, VersionStatus

_MODEL_COLUMNS = (
    "model",
    "versions",
    "memory>",
    "shared>",
    "leases>",
    "allowed>",
    "engine",
    "live source",
)

_STORES = {
    "": "no: the weights end with this daemon (`weightd keeper`)",
    "keeper": "a keeper holds the weights when this daemon ends",
    "systemd": "systemd holds the weights when this daemon ends",
}


def status(runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """Show what the daemon holds, and for whom.

    \b
    Examples:
      weightd status
      weightd status --json | jq .held_nbytes
    """
    with connect(runtime_dir) as client:
        found = client.status()
    if as_json:
        print_json(_untagged(found))
        return
    _print_daemon(found)
    if found.models:
        print_table(_MODEL_COLUMNS, map(_model_row, found.models.values()))
    for model in found.models.values():
        _print_below(model)
    for note in found.notes:
        print_line(f"note: {note}")
    if found.staging:
        print_table(("staging", "stager>", "step", "done>"), map(_staging_row, found.staging))


def _print_below(model: "ModelStatus") -> None:
    """What has no place in the table."""
    if model.note:
        print_line(f"{model.name}: {model.note}")
    for version in model.versions:
        if version.damage:
            print_line(f"{model.name} version {version.number} is damaged: {version.damage}")
    for kind, rules in (("lets in", model.allow), ("denies", model.deny)):
        if rules:
            print_line(f"{model.name} {kind} {', '.join(map(_named, rules))}")


def _print_daemon(found: "DaemonStatus") -> None:
    limit = "no budget" if found.budget_nbytes is None else f"of {size(found.budget_nbytes)}"
    uptime = timedelta(seconds=int(found.uptime_s))
    print_line(f"daemon    pid {found.pid}, weightd {found.version}, up {uptime}")
    print_line(f"folder    {found.runtime_dir}")
    print_line(f"memory    {size(found.held_nbytes)} held, {limit}")
    print_line(f"outlive   {_STORES[found.store]}")
    print_line(f"models    {len(found.models)}")
    print_line(f"workers   {len(found.workers)}")


def _model_row(model: "ModelStatus") -> tuple[str, ...]:
    states = ", ".join(map(_state, model.versions))
    return (
        model.name,
        states,
        size(model.nbytes),
        size(max(v.shared_nbytes for v in model.versions)),
        str(sum(v.leases for v in model.versions)),
        str(len(model.allowed_pids)),
        model.engine or "-",
        model.source,
    )


def _named(rule: str) -> str:
    """A rule, with what people call the user or group."""
    kind, _, value = rule.partition(":")
    names = {"uid": user_name, "gid": group_name}
    name = names[kind](int(value)) if kind in names else value
    return rule if name == value else f"{rule} ({name})"


def _state(version: "VersionStatus") -> str:
    return f"{version.number} {version.state.lower()}" + " damaged" * bool(version.damage)


def _staging_row(staging: "StagingStatus") -> tuple[str, ...]:
    done = f"{100 * staging.done // staging.total} %" if staging.total else "-"
    return staging.model, str(staging.pid), staging.step, done


def events(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Only of models whose name begins so.")
    ] = "",
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Follow what happens from now on, one line each (with --json one JSON object), until Ctrl-C.

    Where the daemon was away, or events came too fast, a line says `missed`: what happened
    meanwhile is not told.

    \b
    Examples:
      weightd events
      weightd events lenet --json
    """
    with connect(runtime_dir) as client:
        for event in client.events(name):
            if as_json:
                print_json({"at_unix_s": time.time()} | _untagged(event), is_one_line=True)
            else:
                print_line(f"{time.strftime('%H:%M:%S')} {event.sentence}")


def shutdown(runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """Have the daemon drain and exit. Workers keep predicting on what they have.

    \b
    Example:
      weightd shutdown
    """
    with connect(runtime_dir) as client:
        client.shutdown()
        folder = client.runtime_dir
    if as_json:
        print_json({"runtime_dir": str(folder)})
    else:
        print_line(f"the daemon at {folder} is stopping")


def upgrade(runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """Replace the daemon by the weightd that is installed now.

    Its successor adopts the weights, which are not read again; workers go on predicting.
    It needs a keeper (`weightd keeper`) or systemd's fd store.

    \b
    Example:
      weightd upgrade
    """
    with connect(runtime_dir) as client:
        before = client.status()
        client.upgrade()
        after = client.status()
    if as_json:
        print_json({"from": _who(before), "to": _who(after)})
    else:
        print_line(
            f"pid {after.pid}, weightd {after.version}, follows pid {before.pid}, weightd "
            f"{before.version}, with {counted(len(after.models), 'model')}"
        )


def _who(found: "DaemonStatus") -> dict[str, Any]:
    return {"pid": found.pid, "version": found.version, "models": sorted(found.models)}


def demo(
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also compare memory; takes 2 GB.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """See one copy of a model's weights serve several processes, here and now.

    It has a daemon of its own, which is gone at the end. The exit status is 1 when
    something was not as promised.

    \b
    Examples:
      weightd demo
      weightd demo --no-memory --json
    """
    from weightd.demo import run

    raise typer.Exit(run(as_json=as_json, with_memory=memory))


def _untagged(message: Any) -> dict[str, Any]:
    """A message as plain values, without the tag that it has on the wire."""
    import msgspec

    values: dict[str, Any] = msgspec.to_builtins(message)
    del values["type"]
    return values
