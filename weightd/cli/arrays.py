"""Arrays that a user brings in a file: .npy, or .npz with a name for each."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from weightd.errors import BadFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weightd.backends.ports import TensorInfo
    from weightd.weights.arrays import Array

    Arrays = Mapping[str, Array]


def read_arrays(path: Path) -> "Array | Arrays":
    """What the file holds; BadFileError when it is no such file."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with ExitStack() as resources:
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            resources.enter_context(found)
            arrays = {key: found[key] for key in found.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise BadFileError(f"{path} has members that are no arrays")
            return arrays
    except OSError as error:
        raise BadFileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadFileError(f"{path} is neither .npy nor .npz of plain arrays") from error


def restored(array: "Array", info: "TensorInfo | None") -> "Array":
    """numpy's files know no bfloat16: they have it as two bytes without a meaning."""
    if info is None or array.dtype.kind != "V" or info.dtype.itemsize != array.itemsize:
        return array
    return array.view(info.dtype)
