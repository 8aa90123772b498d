"""Weights shared between processes by MindSpore Lite's API: who may, what they see, what stays."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import weightd
from tests.daemons import LENET, Worker
from tests.helpers import processes_of, wait_until
from tests.mslite import digest_of, pid_of, share, use
from tests.nets import dense, saved
from weightd.benchmarks import mlp
from weightd.demo import digits

ROOT = Path(weightd.__file__).parent.parent
MIB = 2**20
NAMES = "fc3.weight\nfc3.bias\n"

Start = Callable[[], Worker]


@pytest.fixture
def runtime(short_path: Path) -> Path:
    """A runtime folder; empty at the end, or what killed processes left there is the test's."""
    return short_path / "run"


@pytest.fixture
def start(runtime: Path) -> Iterator[Start]:
    """Starts processes, which end with the test."""
    with ExitStack() as stack:

        def started() -> Worker:
            process = Worker(runtime, script="sharing_worker.py")
            stack.callback(process.close)
            return process

        yield started
    wait_until(lambda: not processes_of(str(runtime)))


def entries(runtime: Path) -> list[str]:
    folder = runtime / "embedded"
    return sorted(os.listdir(folder)) if folder.exists() else []


# --- who may -----------------------------------------------------------------------------------


def test_listed_processes_share_and_answer_as_a_private_model_does(start: Start) -> None:
    master, worker, alone = start(), start(), start()
    handle = share(master, worker)
    assert use(worker, handle) == {"handle": handle}
    alone.ask("build", file=str(LENET))
    assert digest_of(master) == digest_of(worker) == digest_of(alone)


def test_a_process_that_is_not_on_the_list_is_refused_with_the_reason(start: Start) -> None:
    master, listed, stranger = start(), start(), start()
    handle = share(master, listed)
    answer = use(stranger, handle)
    assert answer["error"].startswith("build_from_file failed! Error is ")
    assert "not one of those that it was made for" in answer["error"]
    assert pid_of(stranger) in answer["error"]
    assert answer["cause"] == "NotAllowedError"


def test_another_model_file_is_refused(start: Start, tmp_path: Path) -> None:
    digits.write_early_model(tmp_path / "early.onnx")
    master, worker = start(), start()
    answer = use(worker, share(master, worker), tmp_path / "early.onnx")
    assert answer["cause"] == "MismatchError"
    assert "is not the model that is shared under this handle" in answer["error"]


def test_a_copy_of_the_file_is_accepted(start: Start, tmp_path: Path) -> None:
    copy = Path(shutil.copy(LENET, tmp_path / "copy.onnx"))
    master, worker = start(), start()
    handle = share(master, worker)
    assert use(worker, handle, copy) == {"handle": handle}
    assert digest_of(worker) == digest_of(master)


def test_a_wrong_handle_is_refused(start: Start) -> None:
    master, worker = start(), start()
    handle = share(master, worker)
    answer = use(worker, str(int(handle) ^ 1))
    assert answer["cause"] == "BadHandleError"
    assert "nobody answers to the handle" in answer["error"]


def test_a_handle_may_come_as_the_negative_number_that_an_int64_makes_of_it(start: Start) -> None:
    master, worker = start(), start()
    while int(handle := share(master, worker)) < 2**63:
        pass  # they are random
    assert use(worker, str(int(handle) - 2**64)) == {"handle": handle}


@pytest.mark.parametrize("pids", ["0, {}, 0", "{},", " {} , {}"])
def test_a_list_may_have_a_0_a_comma_too_many_and_a_pid_twice(start: Start, pids: str) -> None:
    master, worker = start(), start()
    own = pid_of(worker)
    section = {"shareable_weight_pid_list": pids.format(own, own)}
    answer = master.ask("build", file=str(LENET), config={"ascend_context": section})
    assert use(worker, answer["handle"]) == {"handle": answer["handle"]}


def test_the_keys_of_the_tutorials_prose_work_without_a_section(start: Start) -> None:
    master, worker = start(), start()
    answer = master.ask("build", file=str(LENET), config={"pids": pid_of(worker)})
    config = {"shared_mem_handle": answer["handle"]}
    assert worker.ask("build", file=str(LENET), config=config) == answer


def test_a_list_and_a_handle_in_one_build_are_refused(start: Start, runtime: Path) -> None:
    section = {"shareable_weight_pid_list": "1", "shareable_weight_mem_handle": "1"}
    answer = start().ask("build", file=str(LENET), config={"ascend_context": section})
    assert answer["cause"] == "SettingsError"
    assert "give one of the two" in answer["error"]
    assert entries(runtime) == []


def test_a_listed_process_that_has_ended_is_named_and_nothing_is_shared(
    start: Start, runtime: Path
) -> None:
    master = start()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    answer = master.ask("build", file=str(LENET), config={"pids": f"{ended.pid}"})
    assert answer["cause"] == "NotAllowedError"
    assert str(ended.pid) in answer["error"]
    assert entries(runtime) == []


# --- what they see -----------------------------------------------------------------------------


def test_when_the_master_is_killed_workers_go_on_predicting(start: Start) -> None:
    master, *workers = (start() for _ in range(3))
    handle = share(master, *workers)
    for worker in workers:
        use(worker, handle)
    before = digest_of(workers[0])
    workers[0].ask("begin_predicting")
    master.process.kill()
    master.process.wait()
    assert [digest_of(worker) for worker in workers] == [before, before]
    assert workers[0].ask("end_predicting")["seen"].keys() == {before}


def test_an_update_of_a_worker_is_refused_and_changes_nothing(start: Start, tmp_path: Path) -> None:
    master, worker = start(), start()
    names, weights = update_files(tmp_path)
    use(worker, share(master, worker, variable_weights_file=str(names)))
    before = digest_of(worker)
    answer = worker.ask("update", weights=str(weights[0]))
    assert answer["error"].startswith("update weight failed! Error is ")
    assert digest_of(worker) == digest_of(master) == before


def test_a_worker_hears_that_it_may_not_update_before_its_names_are_looked_at(
    start: Start, tmp_path: Path
) -> None:
    master, worker = start(), start()
    _, weights = update_files(tmp_path)
    use(worker, share(master, worker))
    answer = worker.ask("update", weights=str(weights[0]))
    assert "only that one may update" in answer["error"]
    assert answer["cause"] == "UsageError"


def update_files(folder: Path) -> tuple[Path, list[Path]]:
    """A list of names, and two sets of weights for them."""
    (folder / "names.txt").write_text(NAMES)
    rng = np.random.default_rng(5)
    sets = [folder / f"weights{number}.npz" for number in range(2)]
    for path in sets:
        weight = rng.standard_normal((10, 84)).astype(np.float32)
        bias = rng.standard_normal(10).astype(np.float32)
        np.savez(path, **{"fc3.weight": weight, "fc3.bias": bias}, allow_pickle=False)
    return folder / "names.txt", sets


def updated_file(weights: Path, folder: Path) -> Path:
    """LeNet-5 with these weights in its file."""
    model = onnx.load_model(LENET)
    given = np.load(weights)
    for tensor in model.graph.initializer:
        if tensor.name in given:
            tensor.CopyFrom(onnx.numpy_helper.from_array(given[tensor.name], tensor.name))
    path = folder / f"{weights.stem}.onnx"
    onnx.save_model(model, path)
    return path


def answers(process: Worker, digest: str) -> bool:
    return digest_of(process) == digest


@pytest.mark.stress
def test_the_masters_updates_reach_workers_and_each_answer_is_of_one_version(
    start: Start, tmp_path: Path
) -> None:
    master, first, second, late, alone = (start() for _ in range(5))
    names, sets = update_files(tmp_path)
    handle = share(master, first, second, late, variable_weights_file=str(names))
    for worker in (first, second):
        use(worker, handle)
    right = [digest_of(master)]
    for weights in sets:
        alone.ask("build", file=str(updated_file(weights, tmp_path)))
        right.append(digest_of(alone))
    assert len(set(right)) == 3
    for worker in (first, second):
        worker.ask("begin_predicting")
    for turn in range(4):
        assert master.ask("update", weights=str(sets[turn % 2])) == {}
        now = right[1 + turn % 2]
        assert digest_of(master) == now
        for worker in (first, second):
            wait_until(partial(answers, worker, now))
    use(late, handle)
    assert digest_of(late) == right[2]
    for worker in (first, second):
        seen = worker.ask("end_predicting")["seen"]
        assert {right[1], right[2]} <= seen.keys() <= set(right)


def test_a_worker_does_not_read_the_weights_from_its_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "mlp.onnx"
    mlp.write(file, width=1024)
    nbytes = file.stat().st_size
    assert nbytes > 20 * MIB
    master, worker = start(), start()
    use(worker, share(master, worker))  # what it imports is read here
    handle = share(master, worker, file=file)
    before = worker.ask("read_nbytes")["nbytes"]
    assert use(worker, handle, file) == {"handle": handle}
    assert worker.ask("read_nbytes")["nbytes"] - before < MIB
    assert digest_of(worker) == digest_of(master)


def test_a_forked_child_cannot_use_its_parents_model_and_harms_nothing(
    start: Start, runtime: Path
) -> None:
    master, worker, late = start(), start(), start()
    handle = share(master, worker, late)
    use(worker, handle)
    for parent in (master, worker):
        answer = parent.ask("fork_and_predict")
        assert answer["error"].startswith("predict failed! Error is ")
        assert answer["cause"] == "ForkedError"
        assert "fork" in answer["error"]
    assert len(entries(runtime)) == 2
    assert use(late, handle) == {"handle": handle}
    assert digest_of(late) == digest_of(master) == digest_of(worker)


@pytest.mark.stress
def test_three_processes_take_the_memory_of_one_copy(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "mlp.onnx"
    mlp.write(file, width=1672)
    nbytes = file.stat().st_size
    assert nbytes > 64 * MIB
    master, *workers = (start() for _ in range(3))
    handle = share(master, *workers, file=file)
    for worker in workers:
        use(worker, handle, file)
    for process in (master, *workers):
        process.ask("predict")
    together = sum(process.ask("memory")["Pss"] for process in (master, *workers))
    assert together < nbytes + 3 * 60 * MIB


# --- what remains ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_closed", [True, False])
def test_nothing_remains_when_the_master_closes_its_model_or_ends(
    start: Start, runtime: Path, is_closed: bool
) -> None:
    master, worker = start(), start()
    use(worker, share(master, worker))
    assert len(entries(runtime)) == 2
    if is_closed:
        master.ask("close")
    else:
        assert master.process.stdin is not None
        master.process.stdin.close()
        assert master.process.wait(20) == 0
    assert entries(runtime) == []
    assert "digest" in worker.ask("predict")


IN_A_GLOBAL = """
import multiprocessing, os, sys
import weightd as mslite

def master():
    global model
    model = mslite.Model()
    model.build_from_file(sys.argv[1], mslite.ModelType.MINDIR, config_dict={"pids": "0"})
    print(len(os.listdir(sys.argv[2])))

process = multiprocessing.get_context("fork").Process(target=master)
process.start()
process.join()
"""


def test_nothing_remains_of_a_model_that_a_child_of_multiprocessing_kept_to_its_end(
    runtime: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_GLOBAL, str(LENET), str(runtime / "embedded")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "WEIGHTD_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert entries(runtime) == []


def test_the_next_master_removes_what_a_killed_one_left(start: Start, runtime: Path) -> None:
    killed, master, worker = start(), start(), start()
    share(killed, worker)
    left = entries(runtime)
    assert len(left) == 2
    killed.process.kill()
    killed.process.wait()
    assert entries(runtime) == left
    handle = share(master, worker)
    assert len(entries(runtime)) == 2
    assert not set(entries(runtime)) & set(left)
    assert use(worker, handle) == {"handle": handle}


def test_two_masters_share_side_by_side(start: Start, tmp_path: Path) -> None:
    small = saved(dense(), tmp_path / "small.onnx")
    one, other, worker = start(), start(), start()
    handles = share(one, worker), share(other, worker, file=small)
    for handle, file, master in zip(handles, (LENET, small), (one, other), strict=True):
        assert use(worker, handle, file) == {"handle": handle}
        assert digest_of(worker) == digest_of(master)
    answer = use(worker, handles[0], small)
    assert answer["cause"] == "MismatchError"
