"""A version opened by an onnxruntime that it was not compiled for: the source's own graph over the
source's own tensors, by the plain mechanism. Any onnxruntime can; it is slower, and the version
must have the tensors (--keep-tensors).
"""

import logging
from collections.abc import Mapping

from weightd.backends.answer import Arrays, check
from weightd.backends.lent import Lent
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.errors import TensorsNeededError, WeightdError
from weightd.weights.arrays import Array

log = logging.getLogger("weightd.worker")

_BOUND = 0.05  # kernels for weights of few bits differ by almost 1 % between engines


class Portable:
    """A session for which the version was not compiled. note: why it cannot be used as compiled.
    TensorsNeededError when its tensors were not kept."""

    engine = "plain"

    def __init__(self, version: MappedVersion, threads: Threads, why: WeightdError) -> None:
        self.note = str(why)
        self._lent = _opened(version, threads, why)
        answer = version.answer()
        if answer is not None:
            found = self._lent.run(answer.inputs)
            check(found, answer._replace(is_exact=False), bound=_BOUND)
        log.warning("model %s runs on the plain engine: %s", version.manifest.model, self.note)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        return self._lent.run(inputs)


def _opened(version: MappedVersion, threads: Threads, why: WeightdError) -> Lent:
    from weightd.backends.onnx_edit import external_names, with_constants

    manifest = version.manifest
    tensors = {entry.name: version.tensor(entry.name) for entry in manifest.tensors}
    missing = [p.name for p in manifest.parameters if p.name not in tensors]
    if missing:
        raise TensorsNeededError(
            f"{why}. With the version's original tensors this process could run it by the plain "
            f"engine, but {missing[0]!r} was not kept: load the model with --keep-tensors, or give "
            "this process the onnxruntime that the daemon has"
        ) from why
    graph = with_constants(version.blob(manifest.source_graph), tensors)
    lent = {name: tensors[name] for name in external_names(graph)}
    return Lent(graph, lent, manifest.outputs, threads)
