"""Every operator against MindSpore itself: the files of tests/data/mindir and their answers.

data/mindir/make.py makes them, with a real MindSpore; nothing of it is needed here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mindir import private_session
from weightd.errors import UnsupportedModelError

DATA = Path(__file__).parent / "data" / "mindir"
CASES = sorted(path.relative_to(DATA).with_suffix("").as_posix() for path in DATA.glob("*/*.npz"))

# Of the largest value of the answer. MindSpore's kernels for float16 round more often than ours.
# The sigmoid and tanh of MindSpore's CPU are themselves off by up to 1e-4 where they level out.
TOLERANCE_OF = {"recurrent/cells": 1e-4, "sequence/bert": 2e-4, "sequence/bert_of_open_sizes": 2e-4}
TOLERANCE = {"float16": 5e-3, "float32": 2e-5, "float64": 1e-9}


def test_there_are_cases() -> None:
    assert len(CASES) > 0


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_what_mindspore_gives(case: str) -> None:
    check_answers(DATA / f"{case}.mindir", TOLERANCE_OF.get(case))


def check_answers(path: Path, tolerance: float | None = None) -> None:
    """A file against the answers beside it."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        kept = dict(arrays)
    if "refused" in kept:
        with pytest.raises(UnsupportedModelError, match=str(kept["refused"])):
            private_session(path)
        return
    session = private_session(path)
    for run in sorted({key.split("/")[0] for key in kept}):
        wanted = _listed(kept, f"{run}/out/")
        found = session.run(_listed(kept, f"{run}/in/"))
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            _check_near(one, other, tolerance)


def _listed(kept: dict[str, Any], prefix: str) -> list[Any]:
    return [kept[f"{prefix}{index}"] for index in range(len(kept)) if f"{prefix}{index}" in kept]


def _check_near(found: Any, wanted: Any, tolerance: float | None) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted)
        return
    largest = np.max(np.abs(wanted), where=np.isfinite(wanted), initial=0.0) or 1.0
    np.testing.assert_allclose(
        found.astype(np.float64),
        wanted.astype(np.float64),
        rtol=0,
        atol=float((tolerance or TOLERANCE[wanted.dtype.name]) * largest),
    )
