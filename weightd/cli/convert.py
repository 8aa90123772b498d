"""`weightd convert`: a model file as ONNX, with its own weights or others."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightd.cli.files import opened
from weightd.cli.options import AsJson, NameRules
from weightd.cli.renamed import print_renamed, renamed_document
from weightd.cli.screen import print_json, print_line, size, step_bar
from weightd.errors import BadFileError, SettingsError

if TYPE_CHECKING:
    from weightd.weights.source import Source


def convert(
    file: Annotated[Path, typer.Argument(metavar="MODEL", readable=False, help="MindIR or ONNX.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.onnx", readable=False, help="The file to write.")
    ],
    *,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Other weights: ckpt, safetensors, npz, or a model's.",
        ),
    ] = None,
    rules: NameRules = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.onnx if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as ONNX, its weights under the names that they have. It needs no daemon.

    \b
    Examples:
      weightd convert lenet5.mindir lenet5.onnx
      weightd convert lenet5.mindir new.onnx --weights lenet5_new.ckpt
      weightd convert net.mindir net.onnx --weights torch.safetensors --map auto
    """
    if rules and weights is None:
        raise SettingsError("--map is about the names of --weights; name a file of weights")
    if target.exists() and not force:
        raise BadFileError(f"{target} exists; give another name, or --force to replace it")
    with ExitStack() as resources:
        model = _opened(file, resources)
        source, renamed = model, {}
        if weights is not None:
            source = _opened(weights, resources)
            renamed = _fit(source, model, rules or [])
        report = resources.enter_context(step_bar("convert", as_json=as_json))
        _write(model, source, target, report)
    if as_json:
        head = {"file": str(target), "nbytes": target.stat().st_size}
        print_json(head | (renamed_document(renamed) if rules else {}))
        return
    if rules:
        print_renamed(renamed)
    print_line(f"{target}: {size(target.stat().st_size)}")


def _write(
    model: "Source", weights: "Source", target: Path, report: Callable[[str, int, int], object]
) -> None:
    from weightd.weights.onnx_write import write_onnx

    if model.graph is None:
        raise BadFileError(f"{model.file_name} has no graph; convert takes a model (MindIR, ONNX)")
    write_onnx(model.graph, weights, target, report)


def _opened(path: Path, resources: ExitStack) -> "Source":
    from weightd.weights.source import open_source

    fd, folder_fd = resources.enter_context(opened(path))
    source = open_source(fd, file_name=path.name, folder_fd=folder_fd)
    return resources.enter_context(source)


def _fit(weights: "Source", model: "Source", rules: list[str]) -> dict[str, str]:
    """Give the weights the model's names, by the rules; MismatchError unless they fit then."""
    from weightd.weights.fit import check_parameters_fit
    from weightd.weights.names import mapped

    wanted = model.parameters
    renamed = {}
    if rules:
        names = [parameter.name for parameter in wanted]
        renamed = mapped(rules, weights.tensors, names, model.constants)
        weights.rename(renamed)
    check_parameters_fit(
        weights.parameters, wanted, optional=model.constants, model=model.file_name
    )
    return renamed
