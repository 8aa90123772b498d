"""A server in the manner of gunicorn: a parent loads the model once and forks workers that attach.

Each worker maps the parent's weights and goes on with the engine that the parent had open, so it is
ready in milliseconds. One that dies is replaced. The users are a child, too: it sends digits, and
kills the worker that gave the hundredth answer, and the next hundredth.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np

import weightd
from weightd.daemon.embedded import Embedded
from weightd.demo.digits import INPUT, LENET, OUTPUT, images_and_labels

NAME = "lenet"
KILLED_EVERY = 100  # digits
LOOK_S = 1.0


class Parent:
    """Forks workers and lets them attach; at its end it ends them."""

    def __init__(
        self, listener: socket.socket, client: weightd.Client, model: weightd.Attachment
    ) -> None:
        self._listener = listener
        self._client = client
        self._model = model
        self._workers: set[int] = set()

    def start_worker(self) -> None:
        """Only who has been allowed attaches, and only a process that is there can be allowed: so
        the worker waits for its handle."""
        told, tell = os.pipe()
        pid = forked(lambda: work(self._listener, self._model, told, tell))
        self._workers.add(pid)
        os.close(told)
        os.write(tell, b"%d" % self._client.allow(NAME, pid))
        os.close(tell)

    def replace_workers_until_the_end_of(self, users: int) -> int:
        """Returns the exit status of the users."""
        while True:
            pid, status = os.wait()
            if pid == users:
                return os.waitstatus_to_exitcode(status)
            self._workers.discard(pid)
            print(f"worker {pid} is dead: the parent forks another", flush=True)
            self.start_worker()

    def close(self) -> None:
        for pid in self._workers:
            os.kill(pid, signal.SIGTERM)
        for pid in self._workers:
            os.waitpid(pid, 0)


def forked(do: Callable[[], object]) -> int:
    """Fork a child that does this and ends; it never comes back into its parent's code."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        do()
        status = 0
    except BaseException:  # noqa: BLE001 - printed, and nothing of the parent's may run
        traceback.print_exc()
    finally:
        os._exit(status)


def work(listener: socket.socket, parents: weightd.Attachment, told: int, tell: int) -> None:
    """A worker, for as long as its parent lives: an image comes in, a digit goes out."""
    parent = os.getppid()
    os.close(tell)
    handle = int(os.read(told, 32))
    began_s = time.perf_counter()
    with parents.attach_in_child(handle) as model:
        print(f"worker {os.getpid()} attached in {took_ms(began_s):.1f} ms", flush=True)
        listener.settimeout(LOOK_S)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError), listener.accept()[0] as connection:
                raw = connection.recv(4096, socket.MSG_WAITALL)
                image = np.frombuffer(raw, np.float32).reshape(1, 1, 32, 32)
                scores = model.predict({INPUT: image})[OUTPUT]
                connection.sendall(b"%d %d" % (scores.argmax(), os.getpid()))


def use(listener: socket.socket) -> None:
    """The users. An answer says which worker gave it."""
    address = listener.getsockname()
    listener.close()  # who holds it open listens
    right = 0
    answers: Counter[int] = Counter()
    images, labels = images_and_labels()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        with socket.create_connection(address) as connection:
            connection.sendall(image.tobytes())
            digit, worker = map(int, connection.recv(64, socket.MSG_WAITALL).split())
        right += digit == label
        answers[worker] += 1
        if number % KILLED_EVERY == KILLED_EVERY - 1:
            os.kill(worker, signal.SIGKILL)
    shares = ", ".join(f"{count} by {worker}" for worker, count in sorted(answers.items()))
    print(f"{right} of {len(images)} digits were read right; answers: {shares}", flush=True)


def took_ms(began_s: float) -> float:
    return (time.perf_counter() - began_s) * 1000


def main(workers: int) -> int:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        users = forked(lambda: use(listener))  # before there are threads
        server = stack.enter_context(Embedded(os.environ))
        client = stack.enter_context(weightd.Client(server.folder.path))
        began_s = time.perf_counter()
        client.load(NAME, LENET)
        client.allow(NAME, os.getpid())
        model = stack.enter_context(weightd.attach(NAME, runtime_dir=server.folder.path))
        print(f"the parent loaded the model in {took_ms(began_s):.0f} ms", flush=True)
        parent = stack.enter_context(contextlib.closing(Parent(listener, client, model)))
        for _ in range(workers):
            parent.start_worker()
        return parent.replace_workers_until_the_end_of(users)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    # Python 3.12 warns of threads where a process forks: the parent has some of weightd's, and a
    # child needs none of them.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    sys.exit(main(parser.parse_args().workers))
