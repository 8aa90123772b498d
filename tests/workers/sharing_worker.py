"""A process that uses MindSpore Lite's API as the test asks: one JSON command a line in, one JSON
answer a line out. A RuntimeError is an answer: what it says, and the error behind it."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ["WEIGHTD_RUNTIME_DIR"] = sys.argv[1]

import weightd as mslite
from weightd.ipc.linux import private_memory


class Process:
    """One Model, and perhaps a thread that predicts with it all the time."""

    def __init__(self) -> None:
        self._model = mslite.Model()
        self._inputs: list[mslite.Tensor] = []
        self._asking: threading.Thread | None = None
        self._seen: dict[str, int] = {}
        self._is_over = False

    def pid(self) -> Any:
        return {"pid": self._model.get_model_info("current_pid")}

    def build(self, file: str, config: dict[str, Any] | None = None) -> Any:
        """Anew, with one input made up from a fixed seed."""
        self._model = mslite.Model()
        self._model.build_from_file(file, mslite.ModelType.MINDIR, config_dict=config)
        self._inputs = self._model.get_inputs()
        rng = np.random.default_rng(0)
        for tensor in self._inputs:
            tensor.shape = [max(1, size) for size in tensor.shape]
            array = rng.standard_normal(tensor.shape).astype(np.float32)
            tensor.set_data_from_numpy(array)
        return {"handle": self._model.get_model_info("shareable_weight_mem_handle")}

    def predict(self) -> Any:
        return {"digest": self._digest()}

    def begin_predicting(self) -> Any:
        self._seen, self._is_over = {}, False
        self._asking = threading.Thread(target=self._ask)
        self._asking.start()
        return {}

    def end_predicting(self) -> Any:
        """How often each answer was given meanwhile."""
        assert self._asking is not None
        self._is_over = True
        self._asking.join()
        return {"seen": self._seen}

    def update(self, weights: str) -> Any:
        tensors = []
        for name, array in np.load(weights).items():
            tensors.append(mslite.Tensor(array))
            tensors[-1].name = name
        self._model.update_weights([tensors])
        return {}

    def fork_and_predict(self) -> Any:
        """In a child that then ends as programs do: its finalisers run."""
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            answer = attempted(self.predict)
            os.write(write_end, json.dumps(answer).encode())
            os.close(0)
            sys.exit(0)
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            answer = json.loads(pipe.read())
        os.wait()
        return answer

    def read_nbytes(self) -> Any:
        """How much this process has read so far, by read() and its kin."""
        with open("/proc/self/io", encoding="ascii") as file:
            return {"nbytes": int(file.readline().split()[1])}

    def memory(self) -> Any:
        return dict(private_memory())

    def close(self) -> Any:
        self._model.close()
        return {}

    def _ask(self) -> None:
        while not self._is_over:
            digest = self._digest()
            self._seen[digest] = self._seen.get(digest, 0) + 1

    def _digest(self) -> str:
        outputs = self._model.predict(self._inputs)
        raw = b"".join(output.get_data_to_numpy().tobytes() for output in outputs)
        return hashlib.sha256(raw).hexdigest()


def attempted(do: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return do(**arguments)
    except RuntimeError as error:
        return {"error": str(error), "cause": type(error.__cause__).__name__}


if __name__ == "__main__":
    process = Process()
    for line in sys.stdin:
        command = json.loads(line)
        answer = attempted(getattr(process, command.pop("do")), **command)
        print(json.dumps(answer), flush=True)
