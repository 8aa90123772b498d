"""policy.py: what a rule says, whom it fits, and who may attach."""

import itertools

import pytest

from weightd.daemon.policy import (
    MAX_RULES,
    Admission,
    Claim,
    Guest,
    Policy,
    Rule,
    decide,
    may_stay,
    not_allowed,
)
from weightd.daemon.rights import hindrances
from weightd.errors import BadHandleError, LimitError, NotAllowedError, SettingsError, WeightdError

ALICE, MALLORY = 1000, 1001


class Town:
    """An account database."""

    def uid_of(self, user: str) -> int:
        return {"alice": ALICE, "nobody": 65534}[user]

    def gid_of(self, group: str) -> int:
        return {"ml": 100, "nogroup": 65534}[group]


def rule(text: str) -> Rule:
    return Rule.parse(text, Town())


def guest(
    uid: int = ALICE, *, groups: set[int] | None = None, unit: str = "", fault: str = ""
) -> Guest:
    return Guest(7, uid, uid, frozenset(groups or ()), unit, fault)


# --- rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("uid:1000", "uid:1000"),
        ("user:alice", "uid:1000"),
        ("gid:0", "gid:0"),
        ("group:ml", "gid:100"),
        ("unit:a.service", "unit:a.service"),
        ("unit:inference@*.service", "unit:inference@*.service"),
        ("unit:inference-*", "unit:inference-*"),
        ("unit:run-r1.scope", "unit:run-r1.scope"),
        (r"unit:dev-disk\x2d1.service", r"unit:dev-disk\x2d1.service"),
    ],
)
def test_a_rule_is_kept_in_numbers_and_reads_as_itself(text: str, numbers: str) -> None:
    assert str(rule(text)) == numbers
    assert Rule.parse(numbers) == rule(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no rule"),
        ("alice", "is no rule; write one like uid:1000"),
        ("uid:", "is no rule"),
        ("uid:alice", "is no uid"),
        ("uid:-1", "is no uid"),
        ("uid:01", "is no uid"),
        ("uid:4294967295", "is no uid"),  # -1, which setuid() takes for nothing
        ("uid:\u0661", "is no uid"),
        ("uid:65534", "it is nobody"),
        ("user:nobody", "it is nobody"),
        ("gid:65534", "it is nobody"),
        ("group:nogroup", "it is nobody"),
        ("user:mallory", "no user 'mallory'"),
        ("group:wheel", "no group 'wheel'"),
        ("unit:a", "names no unit"),
        ("unit:a.slice", "names no unit"),
        ("unit:*", "names no unit"),
        ("unit:*.service", "names no unit"),
        ("unit:system.slice/a.service", "names no unit"),
        ("unit:a?.service", "names no unit"),
        ("unit:[ab].service", "names no unit"),
        ("unit:" + "a" * 300 + ".service", "names no unit"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        rule(text)


@pytest.mark.parametrize("text", ["exe:/usr/bin/python3", "path:/usr/bin/a", "comm:a", "pid:1"])
def test_an_executable_is_no_authoriser(text: str) -> None:
    with pytest.raises(SettingsError, match="is no rule"):
        rule(text)


def test_without_an_account_database_only_numbers_are_understood() -> None:
    for text in ("user:alice", "group:ml"):
        with pytest.raises(SettingsError, match="is no rule"):
            Rule.parse(text)


@pytest.mark.parametrize(
    ("text", "who", "fits"),
    [
        ("uid:1000", guest(1000), True),
        ("uid:1000", guest(1001, groups={1000}), False),
        ("gid:100", guest(groups={5, 100}), True),
        ("gid:1000", guest(1000), True),  # its own first group
        ("gid:100", guest(100 + 1), False),
        ("unit:a.service", guest(unit="a.service"), True),
        ("unit:a.service", guest(unit="A.service"), False),
        ("unit:a.service", guest(unit="a.service.evil.service"), False),
        ("unit:a.service", guest(), False),
        ("unit:a@*.service", guest(unit="a@1.service"), True),
        ("unit:a@*.service", guest(unit="a.service"), False),
        ("unit:a*", guest(unit="ab.scope"), True),
        ("unit:a*", guest(fault="hidepid"), False),
    ],
)
def test_whom_a_rule_fits(text: str, who: Guest, fits: bool) -> None:
    assert rule(text).fits(who) is fits


def test_a_rule_stands_once_and_there_are_so_many_at_most() -> None:
    policy = Policy().allowing([rule("user:alice"), rule("uid:1000")])
    assert policy.allow == (rule("uid:1000"),)
    assert policy.not_allowing([rule("uid:1000")]) == Policy()
    assert policy.not_allowing([rule("uid:2")]) == policy
    many = [Rule("uid", str(number)) for number in range(MAX_RULES)]
    assert len(Policy().denying(many).deny) == MAX_RULES
    with pytest.raises(LimitError, match=f"at most {MAX_RULES}"):
        policy.allowing([*many[:-1], Rule("uid", "999999")])


# --- the decision ------------------------------------------------------------------------

LISTED = Claim(is_listed=True)
WITH_HANDLE = Claim(is_listed=True, has_handle=True)
STRANGE_HANDLE = Claim(has_handle=True, handle_fits=False)
WRONG_HANDLE = Claim(is_listed=True, has_handle=True, handle_fits=False)
ALLOWED = Policy(allow=(Rule("uid", "1000"),))
DENIED = Policy(deny=(Rule("uid", "1000"),))
BOTH = Policy(ALLOWED.allow, DENIED.deny)
BY_RULE = Admission(Rule("uid", "1000"))
BY_PID = Admission()


@pytest.mark.parametrize(
    ("policy", "claim", "expected"),
    [
        # nobody is let in by default
        (Policy(), Claim(), NotAllowedError),
        (Policy(), STRANGE_HANDLE, NotAllowedError),
        # a PID, as ever
        (Policy(), LISTED, BY_PID),
        (Policy(), WITH_HANDLE, BY_PID),
        (Policy(), WRONG_HANDLE, BadHandleError),
        # a rule needs no handle, and does not make a wrong one right
        (ALLOWED, Claim(), BY_RULE),
        (ALLOWED, STRANGE_HANDLE, BadHandleError),
        (ALLOWED, LISTED, BY_PID),
        (ALLOWED, WITH_HANDLE, BY_PID),
        (ALLOWED, WRONG_HANDLE, BadHandleError),
        # deny wins over all
        *itertools.product(
            (DENIED, BOTH),
            (Claim(), LISTED, WITH_HANDLE, STRANGE_HANDLE, WRONG_HANDLE),
            (NotAllowedError,),
        ),
    ],
    ids=repr,
)
def test_who_may_attach(
    policy: Policy, claim: Claim, expected: Admission | type[WeightdError]
) -> None:
    if isinstance(expected, Admission):
        assert decide("m", policy, guest(), claim) == expected
    else:
        with pytest.raises(expected):
            decide("m", policy, guest(), claim)


def test_rules_for_others_change_nothing() -> None:
    for policy in (ALLOWED, DENIED, BOTH):
        with pytest.raises(NotAllowedError):
            decide("m", policy, guest(MALLORY), Claim())
        assert decide("m", policy, guest(MALLORY), LISTED) == BY_PID


def test_a_stranger_hears_the_same_whatever_rules_there_are() -> None:
    words = str(not_allowed(guest(), "m"))
    for policy in (Policy(), DENIED, Policy(allow=(rule("unit:a.service"),))):
        with pytest.raises(NotAllowedError) as caught:
            decide("m", policy, guest(), Claim())
        assert str(caught.value) == words


def test_the_record_is_told_what_a_stranger_is_not() -> None:
    with pytest.raises(NotAllowedError) as caught:
        decide("m", DENIED, guest(), Claim())
    assert caught.value.__notes__ == ["denied by uid:1000"]
    assert "denied" not in str(caught.value)


def test_a_unit_that_is_not_known_is_let_in_by_no_rule_and_denied_by_each() -> None:
    hidden = guest(fault="the daemon does not see /proc/7/cgroup")
    with pytest.raises(NotAllowedError, match="does not see /proc/7/cgroup"):
        decide("m", Policy(allow=(rule("unit:a.service"),)), hidden, Claim())
    with pytest.raises(NotAllowedError, match=r"unit:a\.service is denied.*does not see"):
        decide("m", Policy(deny=(rule("unit:a.service"),)), hidden, LISTED)


def test_whoever_has_lost_one_way_in_may_stay_by_another() -> None:
    assert may_stay("m", ALLOWED, guest(), is_listed=False) == BY_RULE
    assert may_stay("m", Policy(), guest(), is_listed=True) == BY_PID
    assert may_stay("m", Policy(), guest(), is_listed=False) is None
    assert may_stay("m", BOTH, guest(), is_listed=True) is None


@pytest.mark.parametrize(("uid", "who"), [(0, "root"), (ALICE, f"uid {ALICE} and root")])
def test_a_rule_for_those_who_are_shut_out_says_who_is_not(uid: int, who: str) -> None:
    [note] = hindrances([rule("uid:7")], is_public=False, daemon_uid=uid, unit_fault="")
    assert f"uid:7 lets in only those of {who}; start the daemon with attach_public" in note
    assert not hindrances([rule("uid:7")], is_public=True, daemon_uid=uid, unit_fault="")
