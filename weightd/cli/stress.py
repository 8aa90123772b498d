"""`weightd stress`: everything that may go wrong, at once, against a daemon of its own."""

from typing import Annotated

import typer

from weightd.cli.options import AsJson
from weightd.cli.screen import print_json, print_line, print_table, status_line

_FAILED = 1  # exit status
_SIGNALLED = 128  # and the number of the signal

Seconds = Annotated[
    float | None, typer.Option(metavar="N", help="How long; a minute.", show_default=False)
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="S", help="Of an earlier run: the same steps once more.", show_default=False
    ),
]
Kills = Annotated[
    int | None,
    typer.Option(metavar="N", help="End once the daemon was killed N times.", show_default=False),
]
Frames = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Nothing but N mutated frames, evenly to all sockets, and honest peers meanwhile.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", help="How many predict all the time.")]
Storm = Annotated[int, typer.Option(metavar="N", help="How many attach at once in a storm.")]
Only = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Of storm, publish, kill, stop, want, hostile, fuzz, reuse; joined by commas.",
        show_default=False,
    ),
]


def stress(  # noqa: PLR0913 - each is an option
    *,
    seconds: Seconds = None,
    kills: Kills = None,
    frames: Frames = None,
    seed: Seed = None,
    workers: Workers = 8,
    storm: Storm = 1000,
    only: Only = "",
    as_json: AsJson = False,
) -> None:
    """Try to break a daemon, and check that nothing breaks.

    It has a daemon of its own, under a keeper, with workers that predict without a
    break while weights are published, and kills daemon, workers, clients and stagers
    at random moments, starves, floods and fuzzes them. Every answer is checked, and
    in the end that nothing is left. The exit status is 1 when anything was not as
    promised. A seed replays the steps; when they meet what is left to the machine.

    \b
    Examples:
      weightd stress --seconds 600
      weightd stress --kills 200
      weightd stress --frames 1000000
      weightd stress --seconds 60 --seed 12345 --only kill,publish
    """
    from weightd.demo.interruption import Interrupted
    from weightd.stress.main import run
    from weightd.stress.plan import Plan

    plan = Plan.of(
        seconds=seconds,
        seed=seed,
        kills=kills,
        frames=frames,
        only=only,
        workers=workers,
        storm=storm,
    )
    typer.echo(f"seed {plan.seed}", err=True)
    try:
        with status_line() as say:
            findings = run(plan, say)
    except Interrupted as interrupted:
        raise typer.Exit(_SIGNALLED + interrupted.number) from None
    if as_json:
        print_json(findings.document())
    else:
        print_table(("what", "which", "how many"), findings.rows())
        for line in "\n".join(findings.notes).splitlines():
            print_line(line)
        verdict = "nothing broke" if findings.has_passed else "NOT AS PROMISED"
        print_line(f"{verdict} in {findings.seconds:.0f} s; seed {findings.seed}")
    if not findings.has_passed:
        raise typer.Exit(_FAILED)
