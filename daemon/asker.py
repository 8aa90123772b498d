"""Who wants a load or publish, and is told what becomes of it."""

from collections.abc import Callable

import msgspec

from weightd.errors import WeightdError
from weightd.ipc import protocol

Answer = Callable[[protocol.Live | WeightdError], object]
OnProgress = Callable[[protocol.Progress], object]


class Asker(msgspec.Struct, frozen=True):
    """Who wants a load or publish: where progress and the one answer go, and the ticket whose
    withdrawal cancels it. configured: the path in the settings, when they want it."""

    uid: int
    ticket: int | None
    on_progress: OnProgress
    answer: Answer
    configured: str = ""
