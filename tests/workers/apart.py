"""`python apart.py FOLDER PROGRAM ARGUMENT…`: run a program, what each of its processes and threads
prints in a file of its own in FOLDER: they print at once, and the tutorials piece by piece.

Children are forked: that was the default of multiprocessing when the tutorials were written.
"""

import io
import multiprocessing
import os
import runpy
import sys
import threading
from pathlib import Path


class Apart(io.StringIO):
    """Standard output, cut up."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)

    def write(self, text: str) -> int:
        with (self._folder / f"{os.getpid()}-{threading.get_ident()}").open("a") as file:
            return file.write(text)


if __name__ == "__main__":
    sys.stdout = Apart(sys.argv[1])
    del sys.argv[:2]
    multiprocessing.set_start_method("fork")
    runpy.run_path(sys.argv[0], run_name="__main__")
