"""Makes the MindIR files of another MindSpore than ../mindir has, and what it answers on them.

They are the cases of ../mindir/nets whose operators differ in that version. In an environment of
its own, from the root of the repository; the files go into a folder of the version's name:

    python3 -m venv /tmp/mindspore
    /tmp/mindspore/bin/pip install 'mindspore==2.7.0' 'numpy<2'
    /tmp/mindspore/bin/python tests/data/mindir_versions/make.py

1.5.0/ and 1.6.0/ are not made here, since no Python of today runs MindSpore 1. They are files that
its wheels ship, mindspore/ops/bprop_mindir/*.mindir of mindspore-gpu 1.5.0 and 1.6.2: gradients,
which are read and whose operators are not translated. Apache License 2.0.
"""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[2]))

import mindspore as ms

from tests.data.mindir import make

CASES = {
    "arithmetic": ("with_python_numbers",),
    "comparison": ("choices",),
    "dynamic": ("sizes_as_values",),
    "flow": ("if_elif_return",),
    "indexing": ("by_index", "scattered"),
    "linear": ("with_sums",),
}


def main() -> None:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    make.FOLDER = FOLDER / ms.__version__
    make.FOLDER.mkdir(exist_ok=True)
    for family, names in CASES.items():
        for case in importlib.import_module(f"tests.data.mindir.nets.{family}").cases():
            if case.name in names:
                make.make(family, case)


if __name__ == "__main__":
    main()
