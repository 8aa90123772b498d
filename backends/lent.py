"""An onnxruntime session on weights that were lent to it: it reads them where they are.

Three rules, each learnt from a wrong result (docs/decisions/0005): lend with optimisation off,
since optimisers read the placeholder file; keep pre-packing off, since it is a private copy; keep
the arrays alive as long as the session, since it does not.

A lent weight must still exist as external data when the graph is parsed: a hollow file stands in
for it, and goes as soon as the session is there.
"""

from collections.abc import Mapping

from weightd.backends.answer import Arrays
from weightd.backends.hollow import hollow_file
from weightd.backends.onnxruntime import WEIGHTS, Options, OrtSession
from weightd.backends.threads import Threads
from weightd.weights.arrays import Array, dtype_name
from weightd.weights.entries import Port


class Lent:
    """A session and the arrays that it reads. Dies as a whole, with its last run."""

    engine = "plain"
    note = ""

    def __init__(
        self, graph: bytes, arrays: Mapping[str, Array], outputs: tuple[Port, ...], threads: Threads
    ) -> None:
        self._arrays = arrays
        self._output_names = [port.name for port in outputs]
        options = Options(optimise=False, threads=threads)
        options.without_packing()
        for name, array in arrays.items():
            options.lend(name, array, dtype_name(array.dtype))
        largest = max((array.nbytes for array in arrays.values()), default=0)
        with hollow_file(WEIGHTS, largest) as path:
            options.find_weights_in(str(path.parent))
            self._session = OrtSession(graph, options)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        return self._session.run(self._output_names, inputs)
