"""The command line `weightd`: which commands there are. What they do is in the files beside it.

Starting it loads no engine, no numpy and no zmq: each command imports what it needs.
"""

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from weightd._version import __version__
from weightd.cli.amiss import Amiss, refusal
from weightd.cli.bench import bench
from weightd.cli.convert import convert
from weightd.cli.daemon import demo, events, shutdown, status, upgrade
from weightd.cli.doctor import doctor
from weightd.cli.eval import eval_
from weightd.cli.exporter import exporter
from weightd.cli.inspect import inspect
from weightd.cli.models import cancel, load, publish, rollback, unload, update
from weightd.cli.options import USER_MISTAKE, Command
from weightd.cli.predict import predict
from weightd.cli.screen import clean, print_error
from weightd.cli.serve import keeper, serve
from weightd.cli.stress import stress
from weightd.cli.top import top
from weightd.cli.verify import verify
from weightd.cli.workers import allow, deny, ps, revoke

app = typer.Typer(
    name="weightd",
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # a bug of ours shows a plain traceback
)

# What a full disk, a quota, a closed or broken stdout and a terminal that went answer.
_OF_WRITING = {
    errno.EBADF,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.ENXIO,
    errno.EPIPE,
}

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "The daemon": (serve, keeper, status, top, events, upgrade, exporter, shutdown),
    "Models": (load, publish, update, rollback, verify, cancel, unload),
    "Workers": (allow, deny, revoke, ps, predict, eval_),
    "Files": (inspect, convert),
    "This machine": (doctor, demo, bench, stress),
}
for _panel, _functions in PANELS.items():
    for _function in _functions:
        _name = _function.__name__.rstrip("_")  # of what Python has a name like it
        app.command(_name, cls=Command, rich_help_panel=_panel)(_function)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"weightd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Load a model's weights once, share them with many processes, replace them live.

    \b
    Examples:
      weightd keeper                             # in one terminal
      weightd load lenet lenet5.onnx             # in another
      weightd allow lenet 4711                   # process 4711 may attach it
      weightd publish lenet new.safetensors      # attached workers switch
      weightd status

    \b
    Exit status:
      0    done; of serve, keeper and exporter: ended by SIGTERM, the first two
           also by shutdown
      1    done, and something is wrong: verify found damage, revoke or deny
           --kill left somebody alive, demo or stress a promise unkept, bench
           a measurement failed or (--check) a bar missed, doctor a lack;
           or nobody reads the output any more; or a traceback: our mistake
      2    refused, used amiss, or no daemon answers: stderr says why
      75   a daemon under systemd that is to be started again (upgrade)
      128+ the number of a signal: 130 is Ctrl-C
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USER_MISTAKE)


def main() -> None:
    """The entry point."""
    try:
        sys.exit(app(prog_name="weightd", standalone_mode=False))
    except Amiss as error:
        print_error(refusal(error), as_json="--json" in sys.argv[1:])
        sys.exit(USER_MISTAKE)
    except OSError as error:
        text = _complaint(error)
        if text is None:
            raise
        sys.stderr.write(f"weightd: {text}\n")
        sys.exit(USER_MISTAKE)


def _complaint(error: OSError) -> str | None:
    """What to say of an error that no command foresaw; None where it is our mistake."""
    if error.filename is not None:
        return clean(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}")
    if error.errno in _OF_WRITING:
        return f"cannot write the output: {error.strerror}"
    return None
