"""Workers that cannot use a version as it was compiled, with another onnxruntime say: it is staged
once more with its original tensors, which any of them can use, and published to all.

For the others nothing changes: what was compiled is the same, and its memory is shared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from weightd.daemon.catalog import Catalog
from weightd.daemon.publisher import Publisher
from weightd.errors import BusyError, WeightdError
from weightd.ipc import protocol


@dataclass(eq=False)
class Fitting:
    """Knows which leases wait. tell: sends one of them a message."""

    catalog: Catalog
    publisher: Publisher
    tell: Callable[[int, protocol.Unhelped], object]
    _waiting: dict[str, set[int]] = field(default_factory=dict)  # leases, by model

    def ask(self, lease_id: int, request: protocol.Unfit) -> None:
        """A worker says that it is unfit. It hears of a new version, or that there will be none."""
        lease = self.catalog.leases[lease_id]
        model = lease.model
        if not model.is_loaded or lease.is_revoked:
            self.tell(lease_id, protocol.Unhelped("it gets no new versions"))
            return
        if request.version != model.live.number:
            return  # it was told of a newer one, and will try that
        self._waiting.setdefault(model.name, set()).add(lease_id)
        try:
            self.publisher.keep_tensors(model.name, f"process {lease.pid}: {request.reason}")
        except BusyError:
            return  # what is being staged may suit it; if not it asks again
        except WeightdError as error:
            self.settled(model.name, error)

    def settled(self, model: str, error: WeightdError | None) -> None:
        """A staging of this model is over. Who waits has heard of the new version, if there is
        one."""
        for lease in self._waiting.pop(model, ()):
            if error is not None:
                self.tell(lease, protocol.Unhelped(str(error)))
