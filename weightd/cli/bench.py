"""`weightd bench`: what weightd costs on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.options import AsJson, Engine
from weightd.cli.screen import print_json, print_line, print_table, status_line
from weightd.errors import SettingsError

if TYPE_CHECKING:
    from weightd.benchmarks.plan import Effort

_FAILED = 1  # exit status
_SIGNALLED = 128  # and the number of the signal

Names = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="mlp, bert, resnet, …; may be repeated."),
]
OwnModel = Annotated[
    Path | None, typer.Option(metavar="FILE", readable=False, help="A model of your own.")
]
Only = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Of attach, memory, predict, first-answer, swap, publish, verify, api; joined by "
        "commas.",
        show_default=False,
    ),
]
Workers = Annotated[
    str, typer.Option(metavar="COUNTS", help="How many workers to compare the memory of.")
]
OtherEngine = Annotated[
    Engine | None, typer.Option(help="Instead of the daemon's default.", show_default=False)
]
Rounds = Annotated[
    int | None, typer.Option(metavar="N", help="Of each measurement.", show_default=False)
]
Quick = Annotated[bool, typer.Option("--quick", help="Small models; about a minute.")]
Full = Annotated[
    bool, typer.Option("--full", help="More rounds; 50 updates and 10,000 predictions.")
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png", readable=False, help="Draw memory and swaps; needs weightd\\[bench]."
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Exit status 1 when a bar is missed.")]


def bench(  # noqa: PLR0913 - each is an option
    *,
    names: Names = None,
    onnx: OwnModel = None,
    only: Only = "",
    workers: Workers = "1,2,4,8",
    engine: OtherEngine = None,
    rounds: Rounds = None,
    quick: Quick = False,
    full: Full = False,
    plot: Plot = None,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Measure what weightd costs here, against the least that it could cost.

    weightd and what it is compared with are measured in turns. It has a daemon of
    its own, which is gone at the end. Minutes, and some GB; less with --quick.
    The exit status is 1 when a measurement failed, or with --check a bar is missed.

    \b
    Examples:
      weightd bench
      weightd bench --quick --plot bench.png
      weightd bench --model bert --only memory,predict --json
      weightd bench --onnx my_model.onnx --workers 1,4 --check
    """
    from weightd.benchmarks import models, plan, report
    from weightd.benchmarks import plot as picture
    from weightd.benchmarks.main import run
    from weightd.demo.interruption import Interrupted

    wanted = plan.Plan(
        models=models.chosen(names or [], onnx, is_quick=quick),
        measurements=plan.measurements_of(only),
        workers=plan.workers_of(workers),
        effort=_effort(rounds, is_quick=quick, is_full=full),
        engine=engine.value if engine else "",
    )
    if plot:
        picture.check(plot, wanted)
    try:
        with status_line() as say:
            findings = run(wanted, say)
    except Interrupted as interrupted:
        raise typer.Exit(_SIGNALLED + interrupted.number) from None
    machine = report.Machine.here()
    if as_json:
        print_json(report.document(machine, findings))
    else:
        print_table(report.COLUMNS, map(report.row, findings.comparisons))
        for note in report.notes(machine, findings):
            print_line(note)
    if plot:
        picture.draw(findings, plot)
    if findings.failed or (check and report.missed(findings)):
        raise typer.Exit(_FAILED)


def _effort(rounds: int | None, *, is_quick: bool, is_full: bool) -> "Effort":
    from weightd.benchmarks.plan import FULL, NORMAL, QUICK

    if is_quick and is_full:
        raise SettingsError("--quick and --full exclude each other")
    effort = QUICK if is_quick else FULL if is_full else NORMAL
    return effort.with_rounds(rounds)
