"""The programs of MindSpore Lite's tutorials run with one import changed, answer as a private
session does, and leave nothing behind."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import weightd
from tests.daemons import LENET, WORKERS, running_daemon
from tests.helpers import processes_of, wait_until
from tests.mindir import private_session
from weightd.benchmarks import mobilenet
from weightd.weights.arrays import Array

DATA = Path(__file__).parent / "data"
LENET_MINDIR = DATA / "lenet5" / "lenet5.mindir"
TWO_INPUTS = DATA / "mindir" / "dynamic" / "two_open_inputs.mindir"
SEEDS = Path(__file__).parent / "seeds"
APART = WORKERS / "apart.py"
ROOT = Path(weightd.__file__).parent.parent
THREADS, TASKS = 5, 2  # of parallel_002.py


@dataclass
class Place:
    """A folder to work in, and a runtime folder in one with a short path. Temporary files of the
    programs go into a third."""

    work: Path
    runtime: Path

    def __post_init__(self) -> None:
        self.temporary = self.work / "tmp"
        self.temporary.mkdir()

    def run(self, *command: str | Path, **environ: str) -> tuple[str, str]:
        """What a program wrote on standard output and standard error. It ends well, without a
        traceback, and what it started and made is gone with it."""
        own = {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "WEIGHTD_RUNTIME_DIR": str(self.runtime),
        }
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.work,
            env={**os.environ, **own, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        wait_until(lambda: not processes_of(str(self.temporary)))
        assert not list(self.temporary.iterdir())
        return done.stdout, done.stderr

    def run_apart(self, *command: str | Path, **environ: str) -> tuple[list[str], str]:
        """The same, of a program that prints from several processes and threads at once."""
        told = self.work / "told"
        told.mkdir()
        _, errors = self.run(APART, told, *command, **environ)
        return [path.read_text() for path in told.iterdir()], errors

    def left(self) -> list[str]:
        """What is in the runtime folder, but for the empty one where processes meet."""
        return [str(path) for path in self.runtime.rglob("*") if path.name != "embedded"]


@pytest.fixture
def place(tmp_path: Path, short_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, short_path / "run")
    yield place
    assert place.left() == []


@pytest.fixture(scope="module")
def mobilenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an open batch."""
    path = tmp_path_factory.mktemp("mobilenet") / "mobilenetv2.onnx"
    mobilenet.write(path)
    return path


@pytest.fixture(scope="module")
def mobilenet_of_one(mobilenet_file: Path) -> Path:
    """With a batch of one, as the tutorials' file has it."""
    model = onnx.load_model(mobilenet_file)
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 1
    path = mobilenet_file.with_name("of_one.onnx")
    onnx.save_model(model, path)
    return path


@pytest.fixture(params=["lenet", "lenet_mindir", "mobilenet"])
def file(request: pytest.FixtureRequest, mobilenet_of_one: Path) -> Path:
    """A model with one input, whose sizes are fixed."""
    files = {"lenet": LENET, "lenet_mindir": LENET_MINDIR, "mobilenet": mobilenet_of_one}
    return files[request.param]


def inputs_for(file: Path) -> list[Array]:
    """Some; an open size is 1."""
    rng = np.random.default_rng(7)
    return [
        rng.standard_normal([d if isinstance(d, int) else 1 for d in port.shape]).astype(port.dtype)
        for port in private_session(file).inputs
    ]


def raw_input(place: Place, x: Array) -> Path:
    """As the tutorials' input.bin."""
    path = place.work / "input.bin"
    x.tofile(path)
    return path


def printed(text: str) -> list[Array]:
    """Each line of numbers after `output data is:`."""
    return [
        np.array(line.split(), np.float32) for line in re.findall(r"output data is: (.*)", text)
    ]


def with_weight(file: Path, name: str, value: Array) -> Path:
    """A copy of an ONNX file with one weight replaced."""
    model = onnx.load_model(file)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(value, name))
    path = file.with_name(f"other-{file.name}")
    onnx.save_model(model, path)
    return path


# --- one model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["basic_000.py", "basic_001.py"])
def test_a_basic_tutorial_prints_what_a_private_session_answers(
    script: str, file: Path, place: Place
) -> None:
    (x,) = inputs_for(file)
    (expected,) = private_session(file).run([x])
    out, errors = place.run(SEEDS / script, file, raw_input(place, x))
    name = private_session(file).outputs[0].name
    assert out.startswith(
        f"tensor's name is:{name} data size is:{expected.nbytes} "
        f"tensor elements num is:{expected.size}\n"
    )
    (numbers,) = printed(out)
    assert np.array_equal(numbers, expected.ravel()[:50])
    assert errors == ""


@pytest.mark.parametrize("weight", ["fc3.weight", "classes.weight"])
def test_the_update_tutorial_answers_with_the_new_weight(
    weight: str, mobilenet_of_one: Path, place: Place
) -> None:
    file = place.work / "model.onnx"
    file.write_bytes((mobilenet_of_one if weight == "classes.weight" else LENET).read_bytes())
    (place.work / "config.ini").write_text(
        '[ascend_context]\nvariable_weights_file="update_weight_name_list.txt"\n'
    )
    (place.work / "update_weight_name_list.txt").write_text(f"{weight}\n")
    (old,) = (t for t in onnx.load_model(file).graph.initializer if t.name == weight)
    new = np.random.default_rng(3).standard_normal(tuple(old.dims)).astype(np.float32)
    np.save(place.work / "weight.npy", new)
    (x,) = inputs_for(file)
    out, errors = place.run(
        SEEDS / "update_001.py", file, raw_input(place, x), place.work / "weight.npy"
    )
    (expected,) = private_session(with_weight(file, weight, new)).run([x])
    (before,) = private_session(file).run([x])
    (numbers,) = printed(out)
    assert np.allclose(numbers, expected.ravel()[:50], rtol=1e-4, atol=1e-4)
    assert not np.allclose(numbers, before.ravel()[:50], rtol=1e-2, atol=1e-2)
    assert errors == ""


# --- several sessions --------------------------------------------------------------------------


def test_the_parallel_tutorial_gives_every_thread_the_right_answer(
    file: Path, place: Place
) -> None:
    (x,) = inputs_for(file)
    (expected,) = private_session(file).run([x])
    told, errors = place.run_apart(SEEDS / "parallel_002.py", file, raw_input(place, x))
    answers = [numbers for text in told for numbers in printed(text)]
    assert len(answers) == THREADS * TASKS
    for numbers in answers:
        assert np.allclose(numbers, expected.ravel()[:5], rtol=1e-5, atol=1e-6)
    assert "total run time: " in "".join(told)
    assert errors == ""


# --- three processes ---------------------------------------------------------------------------


def shared_answers(place: Place, file: Path, target: str, **environ: str) -> list[str]:
    """Run the tutorial's three processes, and hold what they print against a private session;
    returns the lines on standard error, but for those of workers whom the master left first."""
    inputs = inputs_for(file)  # more than 1000 numbers are not printed in full
    np.savez(place.work / "inputs.npz", *inputs)
    told, errors = place.run_apart(
        SEEDS / "sharing_001.py", file, place.work / "inputs.npz", target, **environ
    )
    expected = private_session(file).run(inputs)
    assert sorted(re.findall(r"index: (\d)", "".join(told))) == ["0", "1", "2"]
    handles = re.findall(r"(?:share handle value|sub process sharehandle): (-?\d+)", "".join(told))
    assert len(handles) == 3
    assert len(set(handles)) == 1
    for text in told:
        (answer,) = re.findall(r"share  \d   \[(.*)\]\nshare", text, re.DOTALL)
        arrays = re.findall(r"array\((.*?),\s*dtype", answer, re.DOTALL)
        assert len(arrays) == len(expected)
        for array, right in zip(arrays, expected, strict=True):
            numbers = np.array(re.sub(r"[\[\],]", " ", array).split(), np.float32)
            assert np.allclose(numbers, right.ravel(), rtol=1e-4, atol=1e-5)
    return errors.splitlines()


@pytest.mark.parametrize("name", ["lenet", "lenet_mindir", "two_inputs", "mobilenet"])
def test_the_sharing_tutorial_runs_in_three_processes(
    name: str, mobilenet_file: Path, place: Place
) -> None:
    files = {
        "lenet": LENET,
        "lenet_mindir": LENET_MINDIR,
        "two_inputs": TWO_INPUTS,
        "mobilenet": mobilenet_file,
    }
    assert shared_answers(place, files[name], "cpu") == []


def test_the_sharing_tutorial_runs_as_it_is_for_an_ascend_where_another_target_stands_in(
    place: Place,
) -> None:
    lines = shared_answers(place, LENET_MINDIR, "ascend", WEIGHTD_TARGET_SUBSTITUTE="cpu")
    assert len(lines) == 3  # one warning in each process
    assert all("there is no 'ascend' here" in line for line in lines)


def test_the_sharing_tutorial_uses_a_daemon_that_runs(tmp_path: Path) -> None:
    with running_daemon() as daemon:
        warnings = shared_answers(Place(tmp_path, daemon.runtime_dir), LENET_MINDIR, "cpu")
        # The master may end, and take its model away, while a slower process still predicts.
        usual = " gets no new versions: the model was unloaded"
        assert [line for line in warnings if not line.endswith(usual)] == []
        assert "loaded mslite." in daemon.log()
        wait_until(lambda: not daemon.client.status().workers)
        assert not daemon.client.status().models
