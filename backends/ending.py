"""The end of a process that left something open whose thread may be inside the engine.

The interpreter ends daemon threads wherever they are; inside onnxruntime that aborts the process.
"""

import atexit
import weakref
from typing import Protocol


class Ending(Protocol):
    """Something with a thread that calls the engine."""

    def end(self) -> None:
        """Return when its thread is not in the engine, and will not be."""


_living: "weakref.WeakSet[Ending]" = weakref.WeakSet()


def end_with_the_process(living: Ending) -> None:
    """Call end() when the process ends, if the object still lives by then.

    It is called before onnxruntime cleans up, as it has registered when it was imported: a session
    that is opened after that (1.31) does not read packed weights where they lie.
    """
    _living.add(living)
    atexit.unregister(_end_all)
    atexit.register(_end_all)  # what is registered last is called first


def _end_all() -> None:
    for living in tuple(_living):
        living.end()
