"""Who may attach a model, beside processes named by their PIDs: rules, and the one decision.

Pure. A rule is a text: `uid:1000`, `gid:100`, `unit:inference@*.service`. Names of users and
groups become numbers once, when the rule is made (`user:alice`, `group:ml`), so a rule means the
same people for as long as it stands. What a rule is held against is the kernel's word about a
process (`Guest`), never the process's own.

    a deny rule fits                      -> refused, whoever else lets it in
    the process was allowed by its PID    -> in
    an allow rule fits                    -> in, without a handle
    else                                  -> refused: nobody is let in by default
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, Protocol, Self

import msgspec

from weightd.errors import BadHandleError, LimitError, NotAllowedError, RefusedError, SettingsError

Kind = Literal["uid", "gid", "unit"]

MAX_RULES = 256  # of one model
_UNKNOWN_ID = 65534  # whatever has no number in the daemon's user namespace
_MAX_ID = 2**32 - 2
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-][A-Za-z0-9:_.\\@*-]{0,254}")
_UNIT_ENDS = (".service", ".scope", "*")
_FORMS = "uid:1000, user:alice, gid:100, group:ml, unit:inference.service, unit:inference@*.service"


class Accounts(Protocol):
    """The machine's users and groups; KeyError when there is none of a name."""

    def uid_of(self, user: str) -> int: ...

    def gid_of(self, group: str) -> int: ...


class Guest(msgspec.Struct, frozen=True):
    """A process that wants to attach, as the kernel describes it. groups: all of them, its own
    first one too. unit: its systemd unit, '' when it is in none, or nobody asked. unit_fault: why
    the unit is not known."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    unit: str = ""
    unit_fault: str = ""


class Rule(msgspec.Struct, frozen=True):
    """One rule, in numbers. value: of a unit a pattern, in which * stands for any text."""

    kind: Kind
    value: str

    @classmethod
    def parse(cls, text: str, accounts: Accounts | None = None) -> Self:
        """The rule that a text says; SettingsError when it says none, or names nobody. Without
        `accounts` only numbers are understood."""
        form, colon, value = text.partition(":")
        if not colon or not value:
            raise SettingsError(f"{text!r} is no rule; write one like {_FORMS}")
        if form in ("uid", "gid"):
            return cls._of_number("uid" if form == "uid" else "gid", value, text)
        if form == "unit":
            return cls._of_unit(value, text)
        if form not in ("user", "group") or accounts is None:
            raise SettingsError(f"{text!r} is no rule; write one like {_FORMS}")
        try:
            if form == "user":
                return cls._of_number("uid", str(accounts.uid_of(value)), text)
            return cls._of_number("gid", str(accounts.gid_of(value)), text)
        except KeyError:
            raise SettingsError(f"{text!r}: this machine has no {form} {value!r}") from None

    @classmethod
    def _of_number(cls, kind: Kind, value: str, text: str) -> Self:
        if not _NUMBER.fullmatch(value) or int(value) > _MAX_ID:
            raise SettingsError(f"{text!r}: {value!r} is no {kind}")
        if int(value) == _UNKNOWN_ID:
            raise SettingsError(
                f"{text!r}: {kind} {_UNKNOWN_ID} stands for everybody whom this machine does not "
                "know: it is nobody, and no rule can name it"
            )
        return cls(kind, value)

    @classmethod
    def _of_unit(cls, value: str, text: str) -> Self:
        if not _UNIT.fullmatch(value) or not value.endswith(_UNIT_ENDS):
            raise SettingsError(
                f"{text!r} names no unit: it ends in .service or .scope, and may have a * for any "
                "text but at its beginning"
            )
        return cls("unit", value)

    def fits(self, guest: Guest) -> bool:
        match self.kind:
            case "uid":
                return guest.uid == int(self.value)
            case "gid":
                return int(self.value) in guest.groups or int(self.value) == guest.gid
            case "unit":
                return guest.unit != "" and fnmatchcase(guest.unit, self.value)

    def may_fit(self, guest: Guest) -> bool:
        """Whether it fits, or it cannot be known: what a rule that denies goes by."""
        return self.fits(guest) or (self.kind == "unit" and guest.unit_fault != "")

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


class Policy(msgspec.Struct, frozen=True):
    """The rules of one model."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()

    def allowing(self, rules: Iterable[Rule]) -> "Policy":
        return Policy(_with(self.allow, rules), self.deny)

    def denying(self, rules: Iterable[Rule]) -> "Policy":
        return Policy(self.allow, _with(self.deny, rules))

    def not_allowing(self, rules: Iterable[Rule]) -> "Policy":
        return Policy(_without(self.allow, rules), self.deny)

    def not_denying(self, rules: Iterable[Rule]) -> "Policy":
        return Policy(self.allow, _without(self.deny, rules))

    @property
    def kinds(self) -> frozenset[Kind]:
        """What must be known of a process to hold it against these rules."""
        return frozenset(rule.kind for rule in (*self.allow, *self.deny))


def _with(rules: tuple[Rule, ...], more: Iterable[Rule]) -> tuple[Rule, ...]:
    together = tuple(dict.fromkeys((*rules, *more)))
    if len(together) > MAX_RULES:
        raise LimitError(
            f"a model has at most {MAX_RULES} rules of a kind; let a group or a unit in instead"
        )
    return together


def _without(rules: tuple[Rule, ...], less: Iterable[Rule]) -> tuple[Rule, ...]:
    gone = set(less)
    return tuple(rule for rule in rules if rule not in gone)


# --- the decision ------------------------------------------------------------------------


class Claim(msgspec.Struct, frozen=True):
    """What a process has to show for a model. is_listed: it was allowed by its PID. handle_fits:
    it brought the handle of that, or none."""

    is_listed: bool = False
    has_handle: bool = False
    handle_fits: bool = True


class Admission(msgspec.Struct, frozen=True):
    """It may attach. rule: which one lets it in, None for its PID."""

    rule: Rule | None = None

    def __str__(self) -> str:
        return "pid" if self.rule is None else str(self.rule)


def decide(model: str, policy: Policy, guest: Guest, claim: Claim) -> Admission:
    """Why this process may attach, or the error that says why it may not."""
    allowing = next((rule for rule in policy.allow if rule.fits(guest)), None)
    denying = next((rule for rule in policy.deny if rule.may_fit(guest)), None)
    if not claim.is_listed and allowing is None:
        raise not_allowed(guest, model, denying)
    if denying is not None:
        raise denied(guest, model, denying)
    if claim.is_listed and claim.handle_fits:
        return Admission()
    if claim.has_handle:
        raise bad_handle(guest.pid, model)
    assert allowing is not None  # who is listed and brings no handle was let in above
    return Admission(allowing)


def may_stay(model: str, policy: Policy, guest: Guest, *, is_listed: bool) -> Admission | None:
    """By what a process that is attached already may go on under these rules, or None."""
    try:
        return decide(model, policy, guest, Claim(is_listed))
    except RefusedError:
        return None


def not_allowed(guest: Guest, model: str, denying: Rule | None = None) -> NotAllowedError:
    """The same words whether the model exists or not: a stranger learns no names. Notes are for the
    log, and do not travel."""
    error = NotAllowedError(
        f"process {guest.pid} may not attach {model!r}; whoever runs the model lets it in with "
        f"`weightd allow {model} {guest.pid}` (Client.allow)" + _why_no_unit(guest)
    )
    error.add_note(f"denied by {denying}" if denying else "nothing lets it in")
    return error


def denied(guest: Guest, model: str, rule: Rule) -> NotAllowedError:
    """For a process that something lets in."""
    error = NotAllowedError(
        f"process {guest.pid} may not attach {model!r}: {rule} is denied, which counts for more "
        "than what lets it in" + _why_no_unit(guest)
    )
    error.add_note(f"denied by {rule}")
    return error


def bad_handle(pid: int, model: str) -> BadHandleError:
    return BadHandleError(
        f"this handle is not one of model {model!r} for process {pid}: it was revoked, is for "
        "another model, or was made by an earlier daemon; ask for the current one, or attach "
        "without a handle"
    )


def _why_no_unit(guest: Guest) -> str:
    return f"; its systemd unit is not known: {guest.unit_fault}" if guest.unit_fault else ""
