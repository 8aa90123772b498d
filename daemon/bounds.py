"""How much of everything a daemon lets there be, and whom it lets in everywhere: what of the
settings the catalog goes by."""

from collections.abc import Mapping

import msgspec

from weightd.daemon.policy import Policy, Rule


class Bounds(msgspec.Struct, frozen=True):
    """keep: how many versions are held for rollback, the live one included; leases_per_uid: how
    many leases the processes of one user may have together; versions_held: how many versions a
    model may have in memory. settled: rules that the settings have for models, by name; deny: for
    all models."""

    keep: int = 2
    leases_per_uid: int = 4096
    versions_held: int = 64
    settled: Mapping[str, Policy] = msgspec.field(default_factory=dict)
    deny: tuple[Rule, ...] = ()
