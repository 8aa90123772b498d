"""Compiles a model into packed pieces, in the stager.

    graph + raw ──optimise, pack──► saved graph, and a file with both forms of every weight
                                        │ sort: who needs which form?
                                        ▼
    plan + pieces: packed forms, plain forms that run as they are, small ones in one piece
                                        │ keys: what does packing the dummies yield?
                                        ▼
    the graph that workers open: it names pieces, and for a packed weight the dummy and its key

A weight whose one use is packed needs no plain form: it gets a place in the dummy. onnxruntime
recognises a packed form by a hash of what packing the plain form yields, so the dummies are packed
once here to learn their keys. They depend on names and shapes alone: the next version of the model
has them from the live one, if its graph is the same.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from weightd.backends.base import Compiled, Inside, Task
from weightd.backends.hollow import hollow_file
from weightd.backends.onnxruntime import WEIGHTS, Options, OrtSession, stamp
from weightd.backends.optimised import memfd, optimised, read_all, read_chunks
from weightd.backends.prepacked.graph import SavedGraph
from weightd.backends.prepacked.layout import Layout, lay_out
from weightd.backends.prepacked.plan import OURS, PLAN, SMALL, check_page_size
from weightd.backends.raw import RawTensors
from weightd.backends.threads import ONE
from weightd.errors import CompileError, PredictError
from weightd.ipc import linux
from weightd.weights.file import OnChunk
from weightd.weights.source import TensorSpec

# Operators that pack a weight by itself. What others make of a dummy, and so its key, can depend on
# the real bytes of another weight: of its scales, say.
_PACKED_BY_SHAPE = {"Attention", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul"}


_MAPPINGS_EACH = 4


class PackedModel(Compiled):
    """The graph for workers, and its pieces out of the file that onnxruntime left."""

    def __init__(self, graph: bytes, layout: Layout, data_fd: int) -> None:
        plan = layout.plan.encode()
        specs = [TensorSpec(PLAN, "uint8", (len(plan),)), *(part.spec for part in layout.parts)]
        super().__init__(graph, {spec.name: spec for spec in specs}, stamp())
        self.inside = {name: Inside(SMALL, offset) for name, offset in layout.small.items()}
        self._sources = {PLAN: plan, **{part.piece.name: part.source for part in layout.parts}}
        self._data_fd = os.dup(data_fd)
        self._resources.callback(os.close, self._data_fd)

    def read_into(self, name: str, target: memoryview, on_chunk: OnChunk) -> None:
        source = self._sources[name]
        if isinstance(source, bytes):
            target[:] = source
            on_chunk(target)
        else:
            read_chunks(self._data_fd, source.offset, target, on_chunk)


def compile_packed(graph: bytes, raw: RawTensors, task: Task) -> PackedModel:
    """Optimise, pack, and learn the keys. CompileError when that cannot be done."""
    check_page_size()
    _check_names(raw)
    with ExitStack() as resources:
        with optimised(graph, raw, task, packed=True) as saved:
            try:
                answer = saved.answer(task)
            except PredictError as error:
                raise CompileError(f"packed weights could not be verified: {error}") from error
            data_fd = os.dup(saved.data_fd)
            resources.callback(os.close, data_fd)
            read = partial(_pread, data_fd)
            saved_graph = SavedGraph(saved.graph, read, raw.specs)
        task.report("packing", 0, raw.buffer.nbytes)
        layout = lay_out(saved_graph, read)
        _check_mappings(len(layout.plan.externals))
        _forget_plain_forms(layout, data_fd)
        keys = _live_keys(saved_graph, layout, task)
        if keys is None:
            keys = _learn_keys(saved_graph, layout, layout.read_while_built(read))
        placed = saved_graph.placed(layout.raw, layout.with_keys(keys))
        compiled = PackedModel(placed, layout, data_fd)
        compiled.answer = answer
        return compiled


def _check_names(raw: RawTensors) -> None:
    for name in raw.specs:
        if name.startswith(OURS):
            raise CompileError(f"weight {name!r} has a name as this engine gives them itself")


def _check_mappings(weights: int) -> None:
    """Each weight is a mapping of its own, and a switch needs two more for a moment."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if (needed := _MAPPINGS_EACH * weights) > limit:
        raise CompileError(
            f"{weights} weights need {needed} mappings in each worker; vm.max_map_count is {limit}"
        )


def _forget_plain_forms(layout: Layout, data_fd: int) -> None:
    """Give the memory back in which onnxruntime left what nobody will read."""
    for place in layout.unused:
        linux.punch_hole(data_fd, place.offset, place.nbytes)


def _live_keys(graph: SavedGraph, layout: Layout, task: Task) -> dict[str, str] | None:
    """The keys of the live version, if it has the same graph and plan by the same engine."""
    live = task.live
    if live is None or not _is_like_ours(live.manifest.stamp):
        return None
    if not all(operator in _PACKED_BY_SHAPE for operator in layout.dummies.values()):
        return None
    if live.compiled()[PLAN].tobytes() != layout.plan.encode():
        return None
    live_graph = SavedGraph(live.graph(), _nothing_to_read)
    return _keys_of(live_graph, layout) if graph.is_same_as(live_graph) else None


def _learn_keys(graph: SavedGraph, layout: Layout, content: Mapping[int, bytes]) -> dict[str, str]:
    """Build a session as a worker does, on the dummies, and see under which keys it saves them."""
    plan = layout.plan
    if not plan.dummies:
        return {}
    options = Options(optimise=False, threads=ONE)
    with (
        memfd("keys") as graph_fd,
        memfd("dummies") as data_fd,
        hollow_file(WEIGHTS, plan.dummy.end, content) as path,
    ):
        options.find_weights_in(str(path.parent))
        options.save(graph_fd, data_fd, packed=True)
        OrtSession(graph.placed(layout.raw, {}), options)
        learnt = SavedGraph(read_all(graph_fd), partial(_pread, data_fd))
    return _keys_of(learnt, layout)


def _keys_of(graph: SavedGraph, layout: Layout) -> dict[str, str]:
    """The dummies' keys; CompileError unless each has one, and its own."""
    found = {weight.name: weight.packed[0].key for weight in graph.weights if weight.packed}
    keys = {name: found[name] for name in layout.dummies if name in found}
    if len(keys) < len(layout.dummies) or len(set(keys.values())) < len(keys):
        raise CompileError("onnxruntime does not name the packed weights of this model uniquely")
    return keys


def _is_like_ours(made_by: Mapping[str, str]) -> bool:
    return {"engine": "prepacked", **stamp()}.items() <= made_by.items()


def _pread(fd: int, nbytes: int, offset: int) -> bytes:
    raw = bytearray(nbytes)
    read_chunks(fd, offset, memoryview(raw), lambda _: None)
    return bytes(raw)


def _nothing_to_read(nbytes: int, offset: int) -> bytes:
    raise CompileError(f"the live graph has {nbytes} bytes at {offset} in another file")
