"""Part 2: what four workers of one large model cost, with private copies and with one shared."""

import shutil
import time
from pathlib import Path

import numpy as np

from weightd.demo import mlp
from weightd.demo.process import Child
from weightd.demo.report import MemoryReport, Side
from weightd.demo.stage import Stage
from weightd.ipc import memory, protocol
from weightd.weights.arrays import Array

NAME = "mlp"
_WORKERS = 4
_ANSWER_S = 90.0
_NEEDED_TIMES = 5.5  # four private copies and their engines; staging takes 4
_MIB = 2**20


def compare_memory(stage: Stage) -> MemoryReport:
    """Measure both ways, one after the other; or say why not."""
    started_s = time.monotonic()
    say = stage.screen.say
    say(f"Part 2: {_WORKERS} workers of one {mlp.NBYTES / _MIB:.0f} MiB model")
    report = MemoryReport(skipped=_reason_to_skip(stage.folder), model_nbytes=mlp.NBYTES)
    if report.skipped:
        say(f"  skipped: {report.skipped}")
        return report
    model_file = stage.folder / "mlp.onnx"
    mlp.write_model(model_file, lambda done: say(f"  generated {done / _MIB:.0f} MiB"))
    say(f"  {_WORKERS} private onnxruntime sessions")
    private = [
        stage.start(f"private-{n}", "memory_worker", "private", model_file) for n in _numbers()
    ]
    answers = _measure(private, report.private, stage.folder)
    report.load_s = _load(stage, model_file)
    say(f"  loaded into the daemon in {report.load_s:.1f} s; {_WORKERS} workers attach")
    shared = [
        stage.start(f"shared-{n}", "memory_worker", "weightd", stage.runtime_dir, NAME)
        for n in _numbers()
    ]
    answers += _measure(shared, report.weightd, stage.folder, stage)
    report.held_nbytes = stage.client.status().held_nbytes
    report.outputs_agree = all(np.allclose(a, answers[0], rtol=1e-3, atol=1e-4) for a in answers)
    report.seconds = time.monotonic() - started_s
    return report


def _numbers() -> range:
    return range(1, _WORKERS + 1)


def _reason_to_skip(folder: Path) -> str:
    needed = int(_NEEDED_TIMES * mlp.NBYTES)
    limit = memory.available()
    if limit.nbytes < needed:
        return (
            f"it needs {needed / _MIB:,.0f} MiB of memory and the {limit.name} leaves "
            f"{limit.nbytes / _MIB:,.0f} MiB"
        )
    free = shutil.disk_usage(folder).free
    if free < mlp.NBYTES * 1.1:
        return (
            f"it needs {mlp.NBYTES / _MIB:,.0f} MiB in {folder}, which has {free / _MIB:,.0f} MiB"
        )
    return ""


def _measure(
    workers: list[Child], side: Side, folder: Path, stage: Stage | None = None
) -> list[Array]:
    """Have all predict, measure each while all live, end them; returns their answers."""
    pids = [worker.receive(timeout_s=_ANSWER_S)["pid"] for worker in workers]
    handle = stage.client.allow(NAME, pids) if stage else 0
    files = [folder / f"{worker.name}.npy" for worker in workers]
    for worker, file in zip(workers, files, strict=True):
        worker.send(handle=handle, answer=str(file))
    for worker in workers:
        side.first_s.append(worker.receive(timeout_s=_ANSWER_S)["first_s"])
    for worker in workers:
        worker.send(do="measure")
        found = worker.receive(timeout_s=_ANSWER_S)
        side.again_s.append(found["again_s"])
        side.pss.append(found["Pss"])
        side.private_dirty.append(found["Private_Dirty"])
    answers = [np.load(file, allow_pickle=False) for file in files]
    for worker in workers:
        worker.close()
    return answers


def _load(stage: Stage, model_file: Path) -> float:
    started_s = time.monotonic()
    steps: set[str] = set()

    def on_progress(progress: protocol.Progress) -> None:
        if progress.step not in steps:
            steps.add(progress.step)
            stage.screen.say(f"  daemon: {progress.step}")

    stage.client.load(NAME, model_file, on_progress=on_progress)
    return time.monotonic() - started_s
