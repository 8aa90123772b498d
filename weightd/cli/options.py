"""Options and arguments that several commands share, and how every command fails."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from weightd.cli.screen import print_error
from weightd.errors import WeightdError

if TYPE_CHECKING:
    from weightd.client import Client

USER_MISTAKE = 2  # exit status

RuntimeDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        readable=False,  # as of every path: who uses it says better than typer what is amiss
        help="The daemon's folder. Without it: $WEIGHTD_RUNTIME_DIR, $RUNTIME_DIRECTORY, "
        "$XDG_RUNTIME_DIR/weightd, or for root /run/weightd.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do all of it but make it live.")]
NameRules = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="RULE",
        help="How names of the file become the model's: OLD=NEW, with a * on both sides for any "
        "text; PATTERN= leaves out; auto finds a prefix, or MindSpore's words for PyTorch's. May "
        "be repeated; the first that fits a name counts.",
        show_default=False,
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


class Engine(StrEnum):
    """What runs a graph."""

    PREPACKED = "prepacked"
    PLAIN = "plain"
    REFERENCE = "reference"


class Command(TyperCommand):
    """A command whose WeightdError is one line on stderr and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WeightdError as error:
            print_error(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(USER_MISTAKE) from error


def connect(runtime_dir: Path | None, *, timeout_s: float = 10.0) -> "Client":
    """A client; the caller closes it."""
    from weightd.client import Client

    return Client(runtime_dir, timeout_s=timeout_s)
