"""`weightd eval`: attach this very process to a model and measure it on a labelled set."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.arrays import read_arrays, restored
from weightd.cli.attached import attached
from weightd.cli.options import AsJson, ModelName, RuntimeDir
from weightd.cli.screen import print_json, print_line, print_table, step_bar
from weightd.errors import BadFileError
from weightd.ipc.words import counted

if TYPE_CHECKING:
    from weightd.evaluation import Evaluation

_METRICS = ("accuracy",)


DataFile = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE.npz",
        readable=False,
        help="An array for each of the model's inputs, by its name and as the model takes it, the "
        "samples along its first axis; and the labels.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        "-m",
        metavar="NAME",
        help="accuracy (the default), top5 or any topK, loss, mse, mae; may be repeated.",
        show_default=False,
    ),
]
Label = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The array of labels: class numbers or one-hot rows; for mse and mae the numbers that "
        "the output should have.",
    ),
]
Output = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which output, if there are several.")
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", help="For a model that takes any; else 32.", min=1)
]
Threads = Annotated[int, typer.Option(metavar="N", help="For one prediction.", min=1)]


def eval_(  # noqa: PLR0913 - each is an option
    name: ModelName,
    *,
    data_file: DataFile,
    metrics: Metrics = None,
    label: Label = "label",
    output: Output = None,
    batch_size: BatchSize = None,
    threads: Threads = 1,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Attach to a model, predict a labelled set in batches, and say how good the answers are.

    Where that is not allowed, it allows itself: the model's owner and admins may. The
    data file is what
    np.savez("digits_test.npz", x=pixels, label=labels) writes for a model with the input x;
    `weightd inspect` names the inputs of a model's file. Other arrays in it are ignored.

    \b
    Examples:
      weightd eval lenet --data digits_test.npz
      weightd eval lenet --data digits_test.npz --metric accuracy --metric top3 --metric loss
      weightd eval prices --data houses.npz --metric mae --label price --json
    """
    import weightd

    arrays = read_arrays(data_file)
    if not hasattr(arrays, "items"):
        raise BadFileError(f"{data_file} holds one array; give an .npz with inputs and labels")
    with (
        attached(name, runtime_dir, threads=threads) as model,
        step_bar(f"eval {name}", as_json=as_json) as report,
    ):
        infos = model.inputs
        found = weightd.evaluate(
            model,
            {key: restored(array, infos.get(key)) for key, array in arrays.items()},
            metrics=metrics or _METRICS,
            label=label,
            output=output,
            batch_size=batch_size,
            on_batch=lambda done, total: report(f"{done} of {total}", done, total),
        )
    _show(name, found, as_json=as_json)


def _show(name: str, found: "Evaluation", *, as_json: bool) -> None:
    if as_json:
        values = {k: v if math.isfinite(v) else str(v) for k, v in found.values.items()}
        head = {"model": name, "samples": found.samples, "versions": list(found.versions)}
        print_json(head | {"seconds": found.seconds, "metrics": values})
        return
    numbers = ", ".join(map(str, found.versions))
    word = "version" if len(found.versions) == 1 else "versions"
    rate = found.samples / found.seconds if found.seconds else math.inf
    print_line(f"{name} {word} {numbers}: {counted(found.samples, 'sample')}, {rate:.0f} a second")
    print_table(("metric", "value>"), ((k, f"{v:.6g}") for k, v in found.values.items()))
    if len(found.versions) > 1:
        print_line("new weights were published meanwhile: the values are of all these versions")
