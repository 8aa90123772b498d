"""Commands that change which models and versions a daemon holds."""

from pathlib import Path
from typing import Annotated

import typer

from weightd.cli.options import (
    AsJson,
    DryRun,
    Engine,
    ModelName,
    NameRules,
    RuntimeDir,
    connect,
)
from weightd.cli.renamed import print_renamed, renamed_document
from weightd.cli.screen import print_json, print_line, progress_bar

ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        readable=False,
        help="ONNX, MindIR, safetensors, ckpt or npz; told apart by content.",
    ),
]


def load(  # noqa: PLR0913 - each is an option
    name: ModelName,
    file: ModelFile,
    *,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="What runs it. Without it the daemon's choice: prepacked, and plain where that "
            "fails.",
            show_default=False,
        ),
    ] = None,
    keep_tensors: Annotated[
        bool,
        typer.Option(
            "--keep-tensors",
            help="Keep the source's tensors, too: to be read, and for workers with another "
            "onnxruntime.",
        ),
    ] = False,
    weights_only: Annotated[
        bool,
        typer.Option("--weights-only", help="Leave the graph aside: tensors to be read, not run."),
    ] = False,
    dry_run: DryRun = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Load a model and make it live as version 1. Ctrl-C cancels it.

    \b
    Examples:
      weightd load lenet lenet5.onnx
      weightd load lenet lenet5.mindir --dry-run
      weightd load words embeddings.safetensors --json
    """
    with (
        connect(runtime_dir) as client,
        progress_bar(f"load {name}", as_json=as_json) as on_progress,
    ):
        version = client.load(
            name,
            file,
            engine=engine.value if engine else "",
            keep_tensors=keep_tensors,
            weights_only=weights_only,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    _print_live(name, version, dry_run=dry_run, as_json=as_json)


def publish(
    name: ModelName,
    file: ModelFile,
    *,
    rules: NameRules = None,
    dry_run: DryRun = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Give a model a full set of new weights. Ctrl-C cancels it.

    It returns when new attaches get them; attached workers switch while they predict.
    A refusal changes nothing.

    \b
    Examples:
      weightd publish lenet lenet5_new.safetensors
      weightd publish lenet lenet5_new.safetensors --dry-run
      weightd publish net torch.safetensors --map auto --dry-run
      weightd publish net training.ckpt --map 'moments.*=' --map learning_rate=
    """
    renamed: dict[str, str] = {}
    with (
        connect(runtime_dir) as client,
        progress_bar(f"publish {name}", as_json=as_json) as on_progress,
    ):
        version = client.publish(
            name,
            file,
            names=rules or (),
            dry_run=dry_run,
            on_progress=on_progress,
            on_renamed=renamed.update,
        )
    if rules and not as_json:
        print_renamed(renamed)
    _print_live(name, version, dry_run=dry_run, as_json=as_json, renamed=renamed if rules else None)


def update(
    name: ModelName,
    file: ModelFile,
    *,
    dry_run: DryRun = False,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Replace some weights of a model. Ctrl-C cancels it.

    FILE holds those that change; the others stay as they are in the live version. It
    returns when new attaches get them; attached workers switch while they predict.
    A refusal changes nothing.

    \b
    Examples:
      weightd update lenet head.safetensors
      weightd update lenet head.npz --dry-run
    """
    with (
        connect(runtime_dir) as client,
        progress_bar(f"update {name}", as_json=as_json) as on_progress,
    ):
        version = client.update(name, file, dry_run=dry_run, on_progress=on_progress)
    _print_live(name, version, dry_run=dry_run, as_json=as_json)


def rollback(
    name: ModelName,
    version: Annotated[
        int | None,
        typer.Argument(metavar="[VERSION]", help="Without it: the one live before.", min=1),
    ] = None,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a held version live again.

    \b
    Examples:
      weightd rollback lenet
      weightd rollback lenet 1
    """
    with connect(runtime_dir) as client:
        live = client.rollback(name, version)
    _print_live(name, live, dry_run=False, as_json=as_json)


def cancel(name: ModelName, runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """Stop the load or publish of a model that runs now.

    \b
    Example:
      weightd cancel lenet
    """
    with connect(runtime_dir) as client:
        client.cancel(name)
    if as_json:
        print_json({"model": name})
    else:
        print_line(f"what was being staged for {name} is cancelled")


def unload(name: ModelName, runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """Forget a model.

    Attached workers keep what they map; the memory goes when the last one detaches.

    \b
    Example:
      weightd unload lenet
    """
    with connect(runtime_dir) as client:
        client.unload(name)
    if as_json:
        print_json({"model": name})
    else:
        print_line(f"{name} is unloaded")


def _print_live(
    name: str,
    version: int,
    *,
    dry_run: bool,
    as_json: bool,
    renamed: dict[str, str] | None = None,
) -> None:
    if as_json:
        document = {"model": name, "version": version, "dry_run": dry_run}
        print_json(document if renamed is None else document | renamed_document(renamed))
    elif dry_run:
        print_line(f"{name} would be live as version {version}; nothing was changed")
    else:
        print_line(f"{name} version {version} is live")
