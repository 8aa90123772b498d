"""onnxruntime at full speed on one copy: weights packed once, mapped by every worker.

What makes an ordinary session fast is that it packs its matrices for the kernels, and that is also
its private copy. Here the packing is done once, in the stager, and workers map what came out:

    stager                                        worker
    ──────                                        ──────
    model ─► onnxruntime optimises and packs      graph ─► onnxruntime builds a session over a
              │                                             hollow file: it packs a dummy,
              ▼                                             finds the dummy's key in the graph, and
    ┌ segment ──────────────────────────┐                   keeps its mapping of the packed form
    │ graph: key of the dummy ─► piece  │                    │
    │ plan:  which pieces, how large    │                    │  address A    (hollow)
    │ packed matrices     ┐             │                    ▼
    │ large tensors       │ pieces, on  │ ───map, move───►  address A    the segment's pages
    │ all small tensors   ┘ whole pages │                    ▲
    └───────────────────────────────────┘                    │  moved in place: nothing is rebuilt
    ┌ segment of the next version ──────┐ ───map, move───────┘
    └───────────────────────────────────┘

    packing.py, layout.py, graph.py    the stager's half; plan.py is what it tells the worker
    core.py, regions.py                a session, and whose pages it reads; session.py the policy

It leans on the engine's insides (docs/decisions/0011 says on which), so it believes nothing:

* compiled:  the written version must answer as a private session did, bit for bit; and a switch
             between it and the live one must, too. The question and the answer go into the version;
* opened:    onnxruntime's version and the CPU must be those of the stamp; every weight must lie in
             a mapping, or it was copied; the answer is checked before the first one is given out;
* switched:  everything is mapped elsewhere first, moved in place while no prediction runs, and
             looked at again; then the answer is checked.

What fails a check does not run: the stager compiles for the plain engine and says why; a worker
opens a new session, or the plain one if the version has what that needs.
"""

from weightd.backends.base import Compiled, Task
from weightd.backends.prepacked.core import Core
from weightd.backends.prepacked.session import PrepackedSession
from weightd.backends.raw import RawTensors
from weightd.backends.threads import ONE, Threads
from weightd.backends.version import MappedVersion
from weightd.errors import AnswerError


class PrepackedBackend:
    """onnxruntime with packed weights that are shared."""

    name = "prepacked"

    def compile(self, graph: bytes, raw: RawTensors, task: Task) -> Compiled:
        from weightd.backends.prepacked.packing import compile_packed  # it imports onnx

        return compile_packed(graph, raw, task)

    def verify(self, version: MappedVersion, previous: MappedVersion | None) -> bool:
        core = Core(version, threads=ONE)
        core.check()
        return previous is not None and core.fits(previous) and _can_switch(core, previous)

    def open(self, version: MappedVersion, *, threads: Threads) -> PrepackedSession:
        return PrepackedSession.open(version, threads)


def _can_switch(core: Core, to: MappedVersion) -> bool:
    """Whether a session shows another version rightly. If it does so in one direction it does in
    both: what a kernel kept of one would be wrong for the other."""
    try:
        core.show(to)
        core.check()
    except (OSError, AnswerError):
        return False
    return True


BACKEND = PrepackedBackend()
