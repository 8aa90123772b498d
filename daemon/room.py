"""How much memory a new version may take: of the daemon's budget, and of its owner's quota."""

from weightd.daemon.catalog import Catalog
from weightd.daemon.settings import Settings
from weightd.daemon.vault import Vault
from weightd.errors import InsufficientMemoryError, LimitError


class Room:
    """Knows the limits, and which new segments are accepted but not of a live version yet.
    unlimited: users without a quota."""

    def __init__(
        self, catalog: Catalog, vault: Vault, settings: Settings, unlimited: frozenset[int]
    ) -> None:
        self._catalog = catalog
        self._vault = vault
        self._budget = settings.memory_budget
        self._quota = settings.staged_nbytes_per_uid
        self._unlimited = unlimited
        self._claims: dict[str, tuple[int, int]] = {}  # by model: the owner, bytes

    def check(self, model: str, asker_uid: int) -> None:
        """LimitError when the owner has all that it may have already."""
        owner_uid = self._owner_of(model, asker_uid)
        if owner_uid not in self._unlimited:
            self._check_quota(owner_uid, 1)

    def left(self, model: str, asker_uid: int) -> int | None:
        """What a new segment of this model may take, None for as much as there is."""
        left = []
        if self._budget is not None:
            left.append(max(0, self._budget - self._vault.nbytes))
        owner_uid = self._owner_of(model, asker_uid)
        if self._quota is not None and owner_uid not in self._unlimited:
            left.append(max(0, self._quota - self._owned_nbytes(owner_uid)))
        return min(left, default=None)

    def claim(self, model: str, asker_uid: int, nbytes: int) -> None:
        """Take this much for a segment that was staged, until drop(). Others may have been staged
        at the same time, each within what was left then."""
        if self._budget is not None and self._vault.nbytes + nbytes > self._budget:
            raise InsufficientMemoryError(
                f"{model!r} takes {nbytes} bytes and the memory budget of the daemon leaves "
                f"{self._budget - self._vault.nbytes} of {self._budget}; unload a model, keep "
                "fewer versions, or raise memory_budget"
            )
        owner_uid = self._owner_of(model, asker_uid)
        if owner_uid not in self._unlimited:
            self._check_quota(owner_uid, nbytes)
        self._claims[model] = (owner_uid, nbytes)

    def drop(self, model: str) -> None:
        """It is a live version's now, or nobody's."""
        self._claims.pop(model, None)

    def _owner_of(self, model: str, asker_uid: int) -> int:
        found = self._catalog.models.get(model)
        return asker_uid if found is None else found.owner_uid

    def _owned_nbytes(self, uid: int) -> int:
        models = [m for m in self._catalog.models.values() if m.owner_uid == uid]
        versions = [version.uid for model in models for version in model.versions.values()]
        claimed = sum(nbytes for owner, nbytes in self._claims.values() if owner == uid)
        return self._vault.nbytes_of(versions) + claimed

    def _check_quota(self, uid: int, nbytes: int) -> None:
        held_nbytes = self._owned_nbytes(uid)
        if self._quota is not None and held_nbytes + nbytes > self._quota:
            raise LimitError(
                f"the models of uid {uid} take {held_nbytes} bytes of the {self._quota} that they "
                f"may (staged_nbytes_per_uid), and {nbytes} more are too many; unload one, or have "
                "an admin raise the limit"
            )
