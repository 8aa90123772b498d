"""A training loop publishes its weights while other processes predict with them.

The last layer of LeNet-5 begins with random weights and learns again, in numpy. Every few steps
update_weights replaces it in all processes at once; each prediction is wholly of one version.
"""

import argparse
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx

import weightd as mslite
from weightd.demo.digits import LENET, images_and_labels
from weightd.weights.arrays import Array

LEARNED = 180  # images to learn from; the others tell how well it went
LEARNING_RATE = 0.004
WEIGHT, BIAS = "fc3.weight", "fc3.bias"
SOON_S = 20.0


def built(path: Path, config: dict[str, str] | None = None) -> mslite.Model:
    context = mslite.Context()
    context.cpu.thread_num = 1
    model = mslite.Model()
    given = {"cpu_context": config} if config else None
    model.build_from_file(str(path), mslite.ModelType.MINDIR, context, config_dict=given)
    return model


def outputs_of(model: mslite.Model, images: Array) -> Array:
    inputs = model.get_inputs()
    found = []
    for image in images:
        inputs[0].set_data_from_numpy(image)
        found.append(model.predict(inputs)[-1].get_data_to_numpy()[0])
    return np.stack(found)


def accuracy(scores: Array, labels: Array) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


# --- the processes that predict ----------------------------------------------------------------


def predict_on_and_on(pipe: Connection) -> None:
    """Say how well the model does when that has changed, until it does as well as it shall."""
    images, labels = (every[LEARNED:] for every in images_and_labels())
    pipe.send(mslite.Model().get_model_info("current_pid"))
    model = built(LENET, {"shareable_weight_mem_handle": pipe.recv()})
    told = before = goal = -1.0
    while told != goal or goal < 0:
        now = accuracy(outputs_of(model, images), labels)
        if now == before != told:  # a pass may begin on one version and end on the next
            told = now
            pid = multiprocessing.current_process().pid
            print(f"    process {pid} predicts, and has {now:.1%} right", flush=True)
        before = now
        if pipe.poll():
            goal = pipe.recv()


@contextmanager
def predicting(count: int) -> Iterator[list[Connection]]:
    """So many of them; their pipes."""
    spawning = multiprocessing.get_context("spawn")
    pairs = [spawning.Pipe() for _ in range(count)]
    processes = [
        spawning.Process(target=predict_on_and_on, args=(theirs,), daemon=True)
        for _, theirs in pairs
    ]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()
    try:
        yield [ours for ours, _ in pairs]
        for process in processes:
            process.join(SOON_S)
    finally:
        for process in processes:
            process.kill()


# --- the process that learns -------------------------------------------------------------------


class LastLayer:
    """Softmax regression on what the layer before it says."""

    def __init__(self, features: Array, labels: Array) -> None:
        self._features = features
        self._labels = np.eye(10, dtype=np.float32)[labels]
        rng = np.random.default_rng(0)
        self.weight = rng.normal(0, 0.1, (10, features.shape[1])).astype(np.float32)
        self.bias = np.zeros(10, np.float32)

    def step(self) -> None:
        scores = self._features @ self.weight.T + self.bias
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        wrong = (shares - self._labels) / len(self._labels)
        self.weight -= LEARNING_RATE * (wrong.T @ self._features)
        self.bias -= LEARNING_RATE * wrong.sum(axis=0)

    def tensors(self) -> list[mslite.Tensor]:
        found = [mslite.Tensor(self.weight), mslite.Tensor(self.bias)]
        found[0].name, found[1].name = WEIGHT, BIAS
        return found


def features_of(images: Array, folder: Path) -> Array:
    """What goes into the last layer: a copy of the model that gives it as an output, too."""
    net = onnx.load_model(LENET)
    (last,) = (node for node in net.graph.node if WEIGHT in node.input)
    net.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.input[0]))
    onnx.save_model(onnx.shape_inference.infer_shapes(net), folder / "features.onnx")
    with built(folder / "features.onnx") as model:
        return outputs_of(model, images)


def main(workers: int, publishes: int, steps: int) -> None:
    images, labels = images_and_labels()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pipes = stack.enter_context(predicting(workers))
        layer = LastLayer(features_of(images[:LEARNED], folder), labels[:LEARNED])
        names = folder / "names.txt"
        names.write_text(f"{WEIGHT}\n{BIAS}\n")
        model = built(
            LENET,
            {
                "shareable_weight_pid_list": ", ".join(pipe.recv() for pipe in pipes),
                "variable_weights_file": str(names),
            },
        )
        stack.enter_context(contextlib.closing(model))
        model.update_weights([layer.tensors()])
        for pipe in pipes:
            pipe.send(model.get_model_info("shareable_weight_mem_handle"))
        for number in range(publishes):
            for _ in range(steps):
                layer.step()
            began_s = time.perf_counter()
            model.update_weights([layer.tensors()])
            took_s = time.perf_counter() - began_s
            print(f"step {steps * (number + 1)}: published in {took_s:.2f} s", flush=True)
        reached = accuracy(outputs_of(model, images[LEARNED:]), labels[LEARNED:])
        print(f"done: the trained model has {reached:.1%} right", flush=True)
        for pipe in pipes:
            pipe.send(reached)
        for pipe in pipes:
            pipe.poll(SOON_S)  # its end: the process has no more use for the model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes that predict")
    parser.add_argument("--publishes", type=int, default=6)
    parser.add_argument("--steps", type=int, default=7, help="of training for each")
    options = parser.parse_args()
    main(options.workers, options.publishes, options.steps)
