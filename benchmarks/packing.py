"""`python -m weightd.benchmarks.packing MODEL`: how long onnxruntime takes to optimise and pack it.

Out: seconds.
"""

import sys
from functools import partial
from pathlib import Path

from weightd.benchmarks.onnxruntime import pack
from weightd.benchmarks.turns import seconds_of

if __name__ == "__main__":
    sys.stdout.write(f"{seconds_of(partial(pack, Path(sys.argv[1])))}\n")
