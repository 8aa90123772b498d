"""Publish: from a file in the page cache to a live version.

Of plain tensors the floor is one memcpy of the same bytes into fresh shared memory, by one thread.
Of a model it is what onnxruntime itself takes to read, optimise and pack it in a fresh process,
whose start and imports are not counted.
"""

import subprocess
from functools import partial
from pathlib import Path

import numpy as np

from weightd.benchmarks import bare
from weightd.benchmarks.comparison import Bar, Comparison
from weightd.benchmarks.daemon import Place
from weightd.benchmarks.plan import MIB
from weightd.benchmarks.subject import Subject
from weightd.benchmarks.turns import in_turns, seconds_of
from weightd.benchmarks.weights import WRITERS, write_tensors
from weightd.benchmarks.workers import module_command

COPIES = 5  # of the bytes: the array, the file, two versions, the floor's own memory
_BAR = Bar(0.5, is_least=True)
_TENSORS = 16
_GIB = 2**30


def measure_tensors(place: Place, nbytes: int, rounds: int) -> Comparison:
    """The rate of plain tensors of this size."""
    name = f"publish-{nbytes // MIB}"
    source = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    file = place.folder / f"{name}.safetensors"
    write_tensors({f"t{i}": part for i, part in enumerate(np.split(source, _TENSORS))}, file)
    place.client.load(name, file)
    ours, floor = in_turns(
        lambda: nbytes / _GIB / seconds_of(partial(place.client.publish, name, file)),
        lambda: nbytes / _GIB / seconds_of(partial(bare.copy_into_fresh_memory, source)),
        rounds=rounds,
        warmup=1,
    )
    place.client.unload(name)
    file.unlink()
    what = f"publish, {nbytes // MIB} MiB of tensors"
    return Comparison("publish", what, "GiB/s", ours, floor, "memcpy", _BAR)


def measure_format(kind: str, place: Place, nbytes: int, rounds: int) -> Comparison:
    """The rate at which a file of this format becomes a new model's tensors."""
    name = f"load-{kind}-{nbytes // MIB}"
    source = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    file = place.folder / f"{name}.{kind}"
    WRITERS[kind]({f"t{i}": part for i, part in enumerate(np.split(source, _TENSORS))}, file)

    def load() -> float:
        is_model = kind == "mindir"
        took_s = seconds_of(partial(place.client.load, name, file, weights_only=is_model))
        place.client.unload(name)
        return nbytes / _GIB / took_s

    ours, floor = in_turns(
        load,
        lambda: nbytes / _GIB / seconds_of(partial(bare.copy_into_fresh_memory, source)),
        rounds=rounds,
        warmup=1,
    )
    file.unlink()
    what = f"load, {nbytes // MIB} MiB of tensors in {kind}"
    return Comparison("publish", what, "GiB/s", ours, floor, "memcpy", _BAR)


def measure_model(subject: Subject, rounds: int) -> Comparison:
    """The time of other weights for a model."""
    ours, floor = in_turns(
        lambda: seconds_of(partial(subject.client.publish, subject.name, subject.other)),
        lambda: _packing_s(subject.file),
        rounds=rounds,
    )
    return Comparison(
        "publish",
        f"publish, {subject.title}",
        "s",
        ours,
        floor,
        "onnxruntime packs it",
        Bar.at_most(subject.model.bars.publish),
        subject.name,
    )


def _packing_s(model: Path) -> float:
    done = subprocess.run(
        module_command("packing", model), check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)
