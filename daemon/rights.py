"""What whitelisted processes and rules mean for those who come, and for leases that are there.

Pure, as the catalog is, whose part this is. The decision itself is in policy.py.
"""

from collections.abc import Collection, Iterable, Mapping

from weightd.daemon.model import Action, Lease, Model
from weightd.daemon.policy import Admission, Claim, Guest, Policy, Rule, decide, may_stay
from weightd.errors import NotAllowedError
from weightd.ipc.peer import Key

_NAMED = 8


def admit(
    model: Model, rules: Policy, key: Key, guest: Guest, handle: int | None
) -> tuple[int, Admission]:
    """The PID under which the process goes here, and what lets it in; or the error that says why
    nothing does."""
    listed_as = model.pid_of(key, None)
    claim = Claim(
        is_listed=listed_as is not None,
        has_handle=handle is not None,
        handle_fits=model.pid_of(key, handle) is not None,
    )
    admission = decide(model.name, rules, guest, claim)
    return (guest.pid if listed_as is None else listed_as), admission


def model_of_handle(models: Iterable[Model], key: Key, handle: int | None) -> Model:
    """The model that this process may attach by the handle alone."""
    for model in models:
        if handle is not None and model.pid_of(key, handle) is not None:
            return model
    raise NotAllowedError(
        f"this handle lets process {key.pid} attach nothing: the process is not one of those "
        "that it was made for, or it was revoked, or its model was unloaded"
    )


def wanted(models: Iterable[Model], leases: Mapping[int, Lease]) -> set[Key]:
    """Every process that some model lets in by its PID, or that has a lease."""
    allowed = {key for model in models for grant in model.grants for key in grant.processes}
    return allowed | {lease.key for lease in leases.values()}


def outlaws(
    model: Model, rules: Policy, leases: Iterable[Lease], guests: Mapping[int, Guest]
) -> list[Lease]:
    """Which of the model's leases nothing lets in any more. The others are noted to be there by
    what lets them in now."""
    found = []
    for lease in leases:
        if lease.is_revoked:
            continue
        is_listed = model.pid_of(lease.key, None) is not None
        guest = _guest_of(lease, guests)
        admission = may_stay(model.name, rules, guest, is_listed=is_listed)
        if admission is None:
            found.append(lease)
        else:
            lease.by = admission.rule
    return found


def pardoned(
    model: Model,
    rules: Policy,
    leases: Iterable[Lease],
    guests: Mapping[int, Guest],
    *,
    pids: Collection[int],
    among: Iterable[Rule],
) -> list[Action]:
    """Have those go on that had lost the right, and have it again by their PID, if it is one of
    these, or by something else and one of the rules `among` fits them."""
    told: list[Action] = []
    for lease in leases:
        guest = _guest_of(lease, guests)
        is_meant = lease.pid in pids or any(rule.fits(guest) for rule in among)
        if lease.model is model and lease.is_revoked and is_meant:
            is_listed = model.pid_of(lease.key, None) is not None
            admission = may_stay(model.name, rules, guest, is_listed=is_listed)
            if admission is not None:
                told.append(lease.pardon(admission.rule))
    return told


def standing(
    model: Model, rules: Policy, leases: Iterable[Lease], guests: Mapping[int, Guest]
) -> tuple[Rule, ...]:
    """Which rules let the processes of these leases in, though their PIDs do not."""
    found: dict[Rule, None] = {}
    for lease in leases:
        guest = _guest_of(lease, guests)
        admission = may_stay(model.name, rules, guest, is_listed=False)
        if admission is not None and admission.rule is not None:
            found[admission.rule] = None
    return tuple(found)


def _guest_of(lease: Lease, guests: Mapping[int, Guest]) -> Guest:
    """Who holds it, or as much as the lease itself tells."""
    return guests.get(lease.id) or Guest(lease.pid, lease.uid, lease.uid)


def hindrances(
    rules: Iterable[Rule], *, is_public: bool, daemon_uid: int, unit_fault: str
) -> tuple[str, ...]:
    """What keeps those whom rules let in from attaching all the same, for whoever runs the daemon.
    unit_fault: why the units of others cannot be read, '' if they can."""
    found = []
    reaching = {f"uid:{daemon_uid}", "uid:0"}
    shut_out = [str(rule) for rule in rules if str(rule) not in reaching]
    reachers = f"uid {daemon_uid} and root" if daemon_uid else "root"
    if shut_out and not is_public:
        found.append(
            "attach_public is off, so processes of other users cannot reach the attach socket: "
            f"{', '.join(shut_out[:_NAMED])} lets in only those of {reachers}; "
            "start the daemon with attach_public = true"
        )
    if unit_fault and any(text.startswith("unit:") for text in shut_out):
        found.append(f"rules for units fit nobody: {unit_fault}")
    return tuple(found)
