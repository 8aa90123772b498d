"""Files made of others."""

import os
import shutil
from pathlib import Path

from tests.test_checkpoint import arrays_of
from weightd.weights.safetensors import write_safetensors


def write_renamed(source: Path, target: Path, prefix: str) -> Path:
    """A safetensors file with a prefix before each name."""
    arrays = {prefix + name: array for name, array in arrays_of(source).items()}
    fd = write_safetensors(arrays, name="renamed")
    with os.fdopen(fd, "rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)
    return target
