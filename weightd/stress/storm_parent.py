"""`python -m weightd.stress.storm_parent RUNTIME_DIR MODEL`: who forks a thousand workers.

In: {"count": N, "killed": SHARE, "seed": S}. N children attach at once, compare every byte of the
version that they get, and detach; a share of them is killed meanwhile. Out: {"attached": N,
"killed": N, "met": {error class: N}, "wrong": [...]}. No engine, no numpy, no zmq.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from weightd.errors import BrokenPeerError, LimitError, WeightdError
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder
from weightd.weights.manifest import read_manifest

TENSOR = "weights"
_PATIENCE_S = 60.0
_ASK_S = 10.0
_LATEST_KILL_S = 0.03  # after the fork: about what attaching takes
_OK, _WRONG, _REFUSED, _BUG = range(4)


def fill(version: int) -> int:
    """Which byte this version's tensor is full of."""
    return version % 251 + 1


def main(runtime_dir: str, name: str) -> None:
    folder = RuntimeFolder(Path(runtime_dir))
    for line in sys.stdin:
        request = json.loads(line)
        found = storm(folder, name, request["count"], request["killed"], request["seed"])
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def storm(folder: RuntimeFolder, name: str, count: int, killed: float, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    told, say = os.pipe()
    started_s = time.monotonic()
    pids: list[int] = []
    doomed: list[tuple[float, int]] = []  # when, and whom
    for _ in range(count):
        pids.append(_forked(folder, name, told, say))
        if rng.random() < killed:
            doomed.append((time.monotonic() + rng.uniform(0, _LATEST_KILL_S), pids[-1]))
        doomed = _kill_due(doomed)
    os.close(say)
    while doomed := _kill_due(doomed):
        time.sleep(0.001)
    text = b""
    while chunk := os.read(told, 65536):  # until the last one has ended
        text += chunk
    os.close(told)
    ends = Counter(os.waitpid(pid, 0)[1] for pid in pids)
    lines = text.decode().splitlines()
    met = Counter(line.removeprefix("met ") for line in lines if line.startswith("met "))
    wrong = [line for line in lines if not line.startswith("met ")]
    statuses = {os.waitstatus_to_exitcode(status): n for status, n in ends.items()}
    bugs = sum(n for status, n in statuses.items() if status not in (_OK, _REFUSED, -9))
    if bugs and not wrong:
        wrong.append(f"{bugs} workers of a storm ended in another way than by an answer")
    return {
        "attached": statuses.get(_OK, 0),
        "killed": statuses.get(-signal.SIGKILL, 0),
        "met": met,
        "wrong": wrong[:20],
        "seconds": time.monotonic() - started_s,
    }


def _kill_due(doomed: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """SIGKILL those whose time has come; returns the others. None is reaped yet, so each number is
    still its own."""
    now_s = time.monotonic()
    for due_s, pid in doomed:
        if due_s <= now_s:
            os.kill(pid, signal.SIGKILL)
    return [(due_s, pid) for due_s, pid in doomed if due_s > now_s]


def _forked(folder: RuntimeFolder, name: str, told: int, say: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = _BUG
    try:
        os.close(told)
        status = _work(folder, name, say)
    finally:
        os._exit(status)


def _work(folder: RuntimeFolder, name: str, say: int) -> int:
    """One child's life: attach, look, detach. What is refused for now is asked for again."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fault = look(folder, name)
        except (BrokenPeerError, LimitError) as error:
            os.write(say, f"met {type(error).__name__}\n".encode())
            if time.monotonic() > deadline_s:
                return _REFUSED
            time.sleep(0.02)
        except WeightdError as error:
            os.write(say, f"met {type(error).__name__}\n".encode())
            return _REFUSED
        else:
            if fault:
                os.write(say, f"{fault}\n".encode())
            return _WRONG if fault else _OK


def look(folder: RuntimeFolder, name: str) -> str:
    """Attach, and detach again; what is wrong with the bytes, or ''."""
    lease = Lease(folder, timeout_s=_ASK_S)
    try:
        grant = lease.attach(name, None)
        try:
            with grant.segments[0].data as data:
                manifest = read_manifest(data)
                (tensor,) = (t for t in manifest.tensors if t.name == TENSOR)
                raw = bytes(data[tensor.offset : tensor.offset + tensor.nbytes])
        finally:
            grant.close()
    finally:
        lease.close()
    if raw.count(fill(grant.version)) != len(raw):
        return f"torn: version {grant.version} of {name} has other bytes than were published"
    return ""


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
