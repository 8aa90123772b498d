"""`weightd verify`: are the bytes in memory those that were published?"""

from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.options import AsJson, RuntimeDir, connect
from weightd.cli.screen import print_json, print_line, print_table, progress_bar, size

if TYPE_CHECKING:
    from weightd.ipc.status import VersionCheck

_DAMAGED = 1  # exit status
_COLUMNS = ("model", "version>", "pieces>", "compared>", "seconds>", "verdict")


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The model; without it: all.")
    ] = None,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare what lies in memory with the digests of what was published, at full speed.

    All versions of a model are read, without it all that the daemon holds. The exit status
    is 1 when bytes are wrong. Such a version is marked in `weightd status` and goes on being
    served: publish its weights again, or unload it. The daemon does the same by itself, slowly.

    \b
    Examples:
      weightd verify
      weightd verify lenet --json | jq '.versions[] | select(.verdict == "damaged")'
    """
    what = f"verify {name or 'all'}"
    with connect(runtime_dir) as client, progress_bar(what, as_json=as_json) as on_progress:
        found = client.verify(name, on_progress=on_progress)
    is_sound = all(not version.damage for version in found)
    if as_json:
        import msgspec

        print_json({"ok": is_sound, "versions": msgspec.to_builtins(found)})
    elif found:
        print_table(_COLUMNS, map(_row, found))
        for version in filter(lambda version: version.damage, found):
            print_line(f"{version.model} version {version.version}: {version.damage}")
    else:
        print_line("no models are loaded")
    if not is_sound:
        raise typer.Exit(_DAMAGED)


def _row(version: "VersionCheck") -> tuple[str, ...]:
    return (
        version.model,
        str(version.version),
        str(version.pieces),
        size(version.nbytes),
        f"{version.seconds:.3f}",
        version.verdict,
    )
