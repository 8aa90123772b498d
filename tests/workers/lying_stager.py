"""The stager after a hostile file took it over: it flips one bit of what it wrote, after everything
was verified and just before it is sealed. The daemon has no way to see it without hashing.

It lies about version 1 of models whose name begins with `flawed`: in their last tensor, or, if the
name ends in `graph`, in the source's graph.
"""

import sys
from collections.abc import Mapping

from weightd.backends.writer import Unsealed, Writer
from weightd.daemon import stager
from weightd.ipc.job import Staged

_seal = Writer.seal


def _lie(writer: Writer, unsealed: Unsealed, stamp: Mapping[str, str] | None = None) -> Staged:
    manifest = unsealed.manifest
    if manifest.model.startswith("flawed") and manifest.version == 1:
        last = (*manifest.compiled, *manifest.tensors)[-1]
        place = manifest.source_graph if manifest.model.endswith("graph") else last
        assert place is not None
        with unsealed.segments[0].data as data:
            data[place.offset + place.nbytes // 2] ^= 1
    return _seal(writer, unsealed, stamp)


# One that was taken over respects no types.
Writer.seal = _lie  # type: ignore[method-assign,assignment]
sys.exit(stager.main())
