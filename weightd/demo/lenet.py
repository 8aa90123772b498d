"""Part 1: three workers predict without a break while the weights are replaced under them."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import weightd
from weightd.demo.digits import (
    FINAL_WEIGHTS,
    INPUT,
    LENET,
    OUTPUT,
    images_and_labels,
    write_early_model,
)
from weightd.demo.onnxruntime import PrivateSession
from weightd.demo.process import Child, DemoError, wait_for_any
from weightd.demo.report import LenetReport, WorkerRow
from weightd.demo.stage import Stage
from weightd.demo.tables import worker_table
from weightd.weights.arrays import Array

NAME = "lenet"
_CHECK = "lenet-check"
_WORKERS = 3
_START_S = 60.0
_SWITCH_S = 20.0
_WATCH_S = 0.5  # two reports of each worker
_WATCH_BY_PEOPLE_S = 4.0
_TICK_S = 0.1


def live_update(stage: Stage) -> LenetReport:
    """Load, predict, update, roll back and forth, and say what happened meanwhile."""
    started_s = time.monotonic()
    stage.screen.say("Part 1: replace the weights of LeNet-5 while three workers predict with them")
    early_model = stage.folder / "lenet5_early.onnx"
    write_early_model(early_model)
    agrees = _write_answers(stage, early_model, _answers_file(stage))
    stage.client.load(NAME, early_model)
    fleet = Fleet(stage)
    report = LenetReport(fleet.rows, agrees_with_private_session=agrees)
    fleet.admit(stage.client.allow(NAME, [row.pid for row in fleet.rows]))
    report.accuracy_before = fleet.settle_on(1, "early weights are live")
    stage.client.publish(NAME, FINAL_WEIGHTS)
    report.accuracy_after = fleet.settle_on(2, "final weights were published meanwhile")
    stage.client.rollback(NAME)
    fleet.settle_on(1, "rolled back")
    stage.client.rollback(NAME, 2)
    fleet.settle_on(2, "and forth again")
    fleet.stop()
    report.seconds = time.monotonic() - started_s
    return report


def _answers_file(stage: Stage) -> Path:
    return stage.folder / "answers.npz"


class Fleet:
    """The worker processes, and a row about each."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        children = [
            stage.start(
                f"worker-{n}", "lenet_worker", stage.runtime_dir, NAME, _answers_file(stage)
            )
            for n in range(1, _WORKERS + 1)
        ]
        pids = [child.receive(timeout_s=_START_S)["pid"] for child in children]
        self.rows = [WorkerRow(c.name, pid) for c, pid in zip(children, pids, strict=True)]
        self._by_child = dict(zip(children, self.rows, strict=True))
        self._heard_s = dict.fromkeys(children, time.monotonic())
        self._stopped: set[Child] = set()

    def admit(self, handle: int) -> None:
        """Give the workers what they attach with; they begin to predict."""
        for child in self._by_child:
            child.send(handle=handle)

    def settle_on(self, version: int, what: str) -> float:
        """Wait until each worker's last answer to each image is of this version; watch them for a
        while; returns the accuracy that they all have."""
        self._follow(
            lambda: all(r.version == version and r.is_settled for r in self.rows),
            timeout_s=_SWITCH_S,
            what=f"all workers on version {version}",
        )
        self._watch(_WATCH_BY_PEOPLE_S if self._stage.screen.is_terminal else _WATCH_S)
        for row in self.rows:
            row.accuracy_on[version] = row.accuracy
        found = {row.accuracy for row in self.rows}
        if len(found) != 1:
            raise DemoError(f"the workers differ on version {version}: accuracies {sorted(found)}")
        per_s = sum(row.per_s for row in self.rows)
        self._stage.screen.say(
            f"  v{version} {what}: {min(found):.1%} right, {per_s:,.0f} answers/s, "
            f"failed {sum(r.failed for r in self.rows)}, torn {sum(r.torn for r in self.rows)}"
        )
        return min(found)

    def stop(self) -> None:
        """Let each finish and send its last count."""
        for child in self._by_child:
            child.send(do="stop")
        self._follow(
            lambda: len(self._stopped) == _WORKERS, timeout_s=_SWITCH_S, what="the workers' end"
        )
        self._stage.screen.close()

    def _watch(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._tick()

    def _follow(self, is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > deadline:
                raise DemoError(f"not within {timeout_s:.0f} s: {what}; {self.rows}")
            self._tick()

    def _tick(self) -> None:
        running = self._by_child.keys() - self._stopped
        for child in wait_for_any(running, timeout_s=_TICK_S):
            self._hear(child)
        self._look_up_switches()
        self._stage.screen.show(worker_table(self.rows))

    def _hear(self, child: Child) -> None:
        row = self._by_child[child]
        for message in child.received():
            now_s = time.monotonic()
            if "has_stopped" in message:
                self._stopped.add(child)
            else:
                row.per_s = (message["requests"] - row.requests) / (now_s - self._heard_s[child])
            self._heard_s[child] = now_s
            row.by_version = tuple(message["by_version"])
            for name in ("version", "accuracy", "requests", "failed", "torn", "is_settled"):
                setattr(row, name, message[name])

    def _look_up_switches(self) -> None:
        """What the daemon was told by its workers; it knows them by the kernel's word."""
        known = {w.pid: w for w in self._stage.client.status().workers if w.model == NAME}
        for row in self.rows:
            if row.pid in known:
                row.switches = known[row.pid].switches
                row.pause_us = known[row.pid].last_pause_us
                row.longest_pause_us = max(row.longest_pause_us, row.pause_us)


def _write_answers(stage: Stage, early_model: Path, target: Path) -> bool:
    """Both versions' own answers to all images, got from a second model that goes again; returns
    whether private sessions see the same digits."""
    images, labels = images_and_labels()
    client = stage.client
    client.load(_CHECK, early_model)
    handle = client.allow(_CHECK, client.current_pid())
    with weightd.attach(_CHECK, handle, runtime_dir=stage.runtime_dir) as model:
        early = _answers(lambda image: model.predict({INPUT: image})[OUTPUT], images)
        client.publish(_CHECK, FINAL_WEIGHTS)
        model.wait_for_version(2, timeout_s=_SWITCH_S)
        final = _answers(lambda image: model.predict({INPUT: image})[OUTPUT], images)
    client.unload(_CHECK)
    if any(a.tobytes() == b.tobytes() for a, b in zip(early, final, strict=True)):
        raise DemoError("the two versions give the same answer to an image: torn could not be told")
    np.savez(target, images=images, labels=labels, early=early, final=final)
    return _agree(early_model, early, images) and _agree(LENET, final, images)


def _answers(predict: Callable[[Array], Array], images: Iterable[Array]) -> Array:
    return np.concatenate([predict(image) for image in images])


def _agree(model: Path, answers: Array, images: Array) -> bool:
    session = PrivateSession(model)
    private = _answers(lambda image: session.predict({INPUT: image}, OUTPUT), images)
    return bool((private.argmax(axis=1) == answers.argmax(axis=1)).all())
