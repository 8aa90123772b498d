"""`weightd predict`: attach this very process to a model and run it once on arrays from a file."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightd.cli.arrays import read_arrays, restored
from weightd.cli.attached import attached
from weightd.cli.options import AsJson, ModelName, RuntimeDir
from weightd.cli.screen import print_json, print_line, print_table
from weightd.errors import BadFileError, BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weightd.backends.attachment import Attachment
    from weightd.weights.arrays import Array

    Arrays = Mapping[str, Array]

_SHOWN = 8


def predict(
    name: ModelName,
    input_file: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            readable=False,
            help=".npz with an array for each input, or .npy for a model with one input.",
        ),
    ],
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="Write the outputs here, as .npz.",
        ),
    ] = None,
    runtime_dir: RuntimeDir = None,
    as_json: AsJson = False,
) -> None:
    """Attach to a model, run it once on the arrays of a file, and show what comes out.

    Where that is not allowed, it allows itself: the model's owner and admins may.

    \b
    Examples:
      weightd predict lenet --input digit.npy
      weightd predict lenet --input digit.npz --output scores.npz
      weightd predict lenet --input digit.npy --json
    """
    arrays = read_arrays(input_file)
    with attached(name, runtime_dir) as model:
        version = model.version
        outputs = model.predict(_inputs(arrays, model, input_file))
    if output_file is not None:
        _write(output_file, outputs)
    if as_json:
        head = {"model": name, "version": version, "output": output_file and str(output_file)}
        has_values = output_file is None
        tensors = {key: _described(array, has_values) for key, array in outputs.items()}
        print_json(head | {"outputs": tensors})
    elif output_file is not None:
        print_line(f"{output_file}: the outputs of {name} version {version}")
    else:
        print_line(f"{name} version {version}")
        columns = ("output", "dtype", "shape", "values")
        print_table(columns, (_row(key, array) for key, array in outputs.items()))


def _inputs(arrays: "Array | Arrays", model: "Attachment", path: Path) -> "Arrays":
    """The arrays by the names of the model's inputs; predict checks them."""
    import numpy as np

    infos = model.inputs
    if isinstance(arrays, np.ndarray):
        if len(infos) > 1:
            raise BadInputError(
                f"{path} holds one array and {model.model!r} takes {', '.join(infos)}; "
                "give an .npz with these names"
            )
        arrays = dict.fromkeys(infos, arrays)
    return {key: restored(array, infos.get(key)) for key, array in arrays.items()}


def _write(path: Path, outputs: "Arrays") -> None:
    """As .npz, member by member: np.savez would take an output called `file` for its own."""
    import zipfile

    import numpy as np

    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in outputs.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as error:
        raise BadFileError(f"cannot write {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BadFileError(f"{path}: the outputs are not plain arrays: {error}") from error


def _described(array: "Array", has_values: bool) -> dict[str, Any]:
    described = {"dtype": array.dtype.name, "shape": list(array.shape)}
    return described | ({"values": _plain(array.tolist())} if has_values else {})


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN and the infinities are 'nan', 'inf' and '-inf'."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _row(key: str, array: "Array") -> tuple[str, ...]:
    first = array.ravel()[:_SHOWN].tolist()
    values = " ".join(f"{x:.5g}" if isinstance(x, float) else str(x) for x in first)
    more = " …" if array.size > _SHOWN else ""
    return key, array.dtype.name, str(array.shape), values + more
