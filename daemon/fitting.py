"""Workers that cannot use a version as it was compiled, with another onnxruntime say: it is staged
once more with its original tensors, which any of them can use, and published to all.

For the others nothing changes: what was compiled is the same, and its memory is shared.
"""

from collections.abc import Callable

import msgspec

from weightd.daemon.catalog import Catalog
from weightd.daemon.publisher import Publisher
from weightd.errors import BusyError, WeightdError
from weightd.ipc import protocol


class Fitting(msgspec.Struct, eq=False):
    """Knows which leases wait. tell: sends one of them a message."""

    catalog: Catalog
    publisher: Publisher
    tell: Callable[[int, protocol.Unhelped], object]
    _waiting: dict[str, set[int]] = msgspec.field(default_factory=dict)  # leases, by model
    _ours: set[str] = msgspec.field(default_factory=set)  # models that are staged because of us
    _hopeless: dict[str, tuple[int, str]] = msgspec.field(
        default_factory=dict
    )  # by model: version, why

    def ask(self, lease_id: int, number: int, reason: str) -> None:
        """A worker says that it is unfit. It hears of a new version, or that there will be none."""
        lease = self.catalog.leases[lease_id]
        model = lease.model
        if not model.is_loaded or lease.is_revoked:
            self.tell(lease_id, protocol.Unhelped("it gets no new versions"))
            return
        if number != model.live.number:
            return  # it was told of a newer one, and will try that
        version, why = self._hopeless.get(model.name, (0, ""))
        if version == model.live.number:  # once for each version is enough
            self.tell(lease_id, protocol.Unhelped(why))
            return
        self._waiting.setdefault(model.name, set()).add(lease_id)
        self._stage(model.name, f"process {lease.pid}: {reason}")

    def settled(self, model: str, error: WeightdError | None) -> None:
        """A staging of this model is over. Who waits has heard of the new version, if there is one;
        if it was the owner's that failed, ours begins."""
        is_ours = model in self._ours
        self._ours.discard(model)
        if error is None:
            self._waiting.pop(model, None)
            self._hopeless.pop(model, None)
        elif is_ours:
            self._give_up(model, error)
        elif self._waiting.get(model):
            self._stage(model, "processes that waited")

    def _stage(self, model: str, note: str) -> None:
        try:
            self.publisher.keep_tensors(model, note)
            self._ours.add(model)
        except BusyError:
            return  # what is being staged may suit them; if not, they ask again
        except WeightdError as error:
            self._give_up(model, error)

    def _give_up(self, model: str, error: WeightdError) -> None:
        self._hopeless[model] = (self.catalog.model(model).live.number, str(error))
        for lease in self._waiting.pop(model, ()):
            self.tell(lease, protocol.Unhelped(str(error)))
