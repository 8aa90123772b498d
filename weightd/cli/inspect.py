"""`weightd inspect`: what a model or weights file holds, before anybody loads it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightd.cli.files import opened
from weightd.cli.options import AsJson
from weightd.cli.screen import print_json, print_line, print_table, size
from weightd.ipc.words import counted

if TYPE_CHECKING:
    from weightd.weights.about import About
    from weightd.weights.entries import Port

_SHOWN = 30


def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", readable=False, help="ONNX, MindIR, safetensors, ckpt or npz."
        ),
    ],
    show_all: Annotated[
        bool, typer.Option("--all", help="Every tensor, not the first 30.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a file holds: format, inputs, outputs, operators, tensors. It needs no daemon.

    \b
    Examples:
      weightd inspect lenet5.mindir
      weightd inspect training.ckpt --all
      weightd inspect lenet5.onnx --json
    """
    from weightd.weights.about import about

    with opened(file) as (fd, folder_fd):
        found = about(fd, file_name=file.name, folder_fd=folder_fd)
    if as_json:
        print_json(_document(file, found))
    else:
        _show(file, found, _SHOWN if not show_all else len(found.tensors))


def _show(file: Path, found: "About", most: int) -> None:
    by = f", by {found.producer}" if found.producer else ""
    print_line(f"{file}: {found.format}{by}")
    print_line(f"{counted(len(found.tensors), 'tensor')}, {size(found.nbytes)}")
    for key, value in found.notes.items():
        print_line(f"{key}: {value}")
    if found.has_graph:
        print_line(
            f"graph: cannot be run here: {found.obstacle}" if found.obstacle else "graph: yes"
        )
        ports = [("input", port) for port in found.inputs]
        ports += [("output", port) for port in found.outputs]
        rows = ((kind, p.name, p.dtype, _dims(p)) for kind, p in ports)
        print_table(("", "name", "dtype", "shape"), rows)
        counts = sorted(found.operators.items(), key=lambda item: (-item[1], item[0]))
        print_table(("operator", "count>"), ((op, str(count)) for op, count in counts))
    tensors = found.tensors[:most]
    rows = ((t.name, t.dtype, str(list(t.shape)), size(t.nbytes)) for t in tensors)
    print_table(("tensor", "dtype", "shape", "size>"), rows)
    if len(tensors) < len(found.tensors):
        print_line(f"... and {len(found.tensors) - len(tensors)} more (--all)")


def _dims(port: "Port") -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in port.shape) + "]"


def _document(file: Path, found: "About") -> dict[str, Any]:
    return {
        "file": str(file),
        "format": found.format,
        "producer": found.producer,
        "notes": dict(found.notes),
        "has_graph": found.has_graph,
        "obstacle": found.obstacle,
        "inputs": [_port(port) for port in found.inputs],
        "outputs": [_port(port) for port in found.outputs],
        "operators": dict(found.operators),
        "nbytes": found.nbytes,
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "nbytes": t.nbytes}
            for t in found.tensors
        ],
    }


def _port(port: "Port") -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}
