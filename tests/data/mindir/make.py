"""Makes the MindIR files of this folder, and what MindSpore itself answers on them.

Only needed to add or change a case; the tests use the files and need no MindSpore. In an
environment of its own, from the root of the repository:

    python3 -m venv /tmp/mindspore
    /tmp/mindspore/bin/pip install 'mindspore==2.10.0' 'numpy<2'
    /tmp/mindspore/bin/python tests/data/mindir/make.py             # all families
    /tmp/mindspore/bin/python tests/data/mindir/make.py conv pool   # some

A family is a file in nets/ with a function cases(). Each case becomes FAMILY/NAME.mindir and
FAMILY/NAME.npz, whose arrays are called RUN/in/INDEX and RUN/out/INDEX, or `refused`: a part of the
message with which weightd refuses the file. Everything random comes from a seed that follows from
the case's name.
"""

import argparse
import importlib
import os
import sys
import zlib
from pathlib import Path
from typing import Any

os.environ["GLOG_v"] = "3"  # noqa: SIM112 - errors only; read when mindspore is imported

import mindspore as ms
import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[2]))

from tests.data.mindir.nets.case import Case


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the MindIR test data.")
    parser.add_argument("families", nargs="*", help="Without one: all.")
    parser.add_argument("--only", default="", help="Cases whose name contains this.")
    arguments = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    known = {path.stem for path in (FOLDER / "nets").glob("*.py")}
    failed = []
    for family in arguments.families or sorted(known - {"__init__", "case", "function"}):
        module = importlib.import_module(f"tests.data.mindir.nets.{family}")
        for case in module.cases():
            if arguments.only not in case.name:
                continue
            try:
                make(family, case)
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                failed.append(f"{family}/{case.name}: {error!s:.600}")
    sys.exit("\n".join(failed))


def make(family: str, case: Case) -> None:
    """Export one network, and keep its answers."""
    folder = FOLDER / family
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(f"{family}/{case.name}".encode()))
    ms.set_seed(1)
    net = case.net()
    net.set_train(False)
    if case.expected is None:  # numpy knows of no parameters but fresh ones
        fill_parameters(net, rng)
    runs = [[np.asarray(array) for array in case.inputs(rng)] for _ in range(case.runs)]
    shapes = case.shapes or [None] * len(runs[0])
    examples = [
        tensor_of(array) if shape is None else ms.Tensor(shape=shape, dtype=tensor_of(array).dtype)
        for array, shape in zip(runs[0], shapes, strict=True)
    ]
    path = folder / f"{case.name}.mindir"
    ms.export(net, *examples, file_name=str(path.with_suffix("")), file_format="MINDIR")
    path.chmod(0o644)  # MindSpore makes it readable for its owner only
    kept: dict[str, Any] = {}
    if case.refused:
        kept["refused"] = np.array(case.refused)
    else:
        for number, arrays in enumerate(runs):
            kept |= {f"{number}/in/{index}": array for index, array in enumerate(arrays)}
            if case.expected is None:
                answers = flattened(net(*map(tensor_of, arrays)))
            else:
                answers = [np.asarray(a, arrays[0].dtype) for a in case.expected(*arrays)]
            kept |= {f"{number}/out/{index}": answer for index, answer in enumerate(answers)}
    np.savez_compressed(path.with_suffix(".npz"), **kept)
    print(f"{family}/{case.name}: {path.stat().st_size} bytes")


def fill_parameters(net: Any, rng: np.random.Generator) -> None:
    """Numbers that a mistake cannot hide in: not the zeros and ones of a fresh network."""
    for parameter in net.get_parameters():
        array = parameter.asnumpy()
        if array.dtype.kind != "f":
            continue
        filled = rng.normal(0, 0.4, array.shape)
        if "variance" in parameter.name:
            filled = rng.uniform(0.5, 2, array.shape)
        parameter.set_data(ms.Tensor(filled.astype(array.dtype)))


def tensor_of(array: np.ndarray[Any, Any]) -> Any:
    return ms.Tensor(array)


def flattened(value: Any) -> list[np.ndarray[Any, Any]]:
    """The outputs in the order of the exported graph's."""
    if isinstance(value, tuple | list):
        return [array for part in value for array in flattened(part)]
    return [value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)]


if __name__ == "__main__":
    main()
