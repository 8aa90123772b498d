"""Tensors of a file under a model's names, by explicit rules. Pure: names in, a mapping out.

Rules are texts, tried in order for each tensor; the first that fits counts:

    OLD=NEW         that name becomes NEW
    backbone.*=*    what the star stands for stays: a prefix goes; *=module.* adds one
    *.gamma=*.weight
    moments.*=      nothing behind the = : left out
    auto            find it: the same names; a prefix more or less; MindSpore's last words for
                    PyTorch's, or the other way round; never a guess
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from weightd.errors import BadRequestError, MismatchError

AUTO = "auto"
STAMP = "names"
MAX_RULES = 256

# The last words of names, MindSpore's first. PyTorch has one word for several of MindSpore's.
_WORDS = (
    ("gamma", "weight"),
    ("embedding_table", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
_COUNTERS = "num_batches_tracked"  # PyTorch counts batches; nothing needs it to predict
_NAMED = 5


class Rule(NamedTuple):
    """One rule. new "": leave out."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.old}={self.new}"

    def applied(self, name: str) -> str | None:
        """The new name; None where the rule does not fit, or would leave nothing of the name."""
        before, star, after = self.old.partition("*")
        if not star:
            return self.new if name == self.old else None
        fits = name.startswith(before) and name.endswith(after)
        if not fits or len(name) < len(before) + len(after):
            return None
        new = self.new.replace("*", name[len(before) : len(name) - len(after)], 1)
        return new if new or not self.new else None  # "" would leave it out without being told to


_Words = Callable[[str], set[str]]
_AS_IS = Rule("*", "*")


def rules_text(rules: Iterable[str]) -> str:
    """Rules as one text: a stamp has it, so that the same file can be staged again."""
    return "\n".join(rules)


def rules_of(stamp: Mapping[str, str]) -> tuple[str, ...]:
    """The rules by which a version's file was read."""
    return tuple(filter(None, stamp.get(STAMP, "").split("\n")))


def parsed_rules(rules: Sequence[str]) -> list[Rule | None]:
    """The rules, None for auto; BadRequestError for what is none."""
    if len(rules) > MAX_RULES:
        raise BadRequestError(f"{len(rules)} rules; the limit is {MAX_RULES}")
    return [None if rule == AUTO else _parsed(rule) for rule in rules]


def _parsed(text: str) -> Rule:
    old, equals, new = text.partition("=")
    stars = old.count("*"), new.count("*")
    if not equals or not old or stars not in ((0, 0), (1, 1), (1, 0)) or (stars == (1, 0) and new):
        raise BadRequestError(
            f"{text[:200]!r} is no rule: OLD=NEW, with a * on both sides or on none, PATTERN= to "
            "leave out, or auto"
        )
    return Rule(old, new)


def mapped(
    rules: Sequence[str],
    names: Collection[str],
    wanted: Collection[str],
    optional: Collection[str] = (),
) -> dict[str, str]:
    """What each of a file's names becomes by the rules, "" for what is left out. optional: wanted
    names that the file may lack.

    MismatchError when a rule fits nothing, two names become one, or auto finds nothing that fits.
    Names that no rule is about stay; whether all that is wanted is there is checked elsewhere.
    """
    parsed = parsed_rules(rules)
    by_rule = _by_rules([rule for rule in parsed if rule is not None], names)
    if None in parsed:
        rest = [name for name in names if name not in by_rule]
        taken = set(by_rule.values())
        left = [name for name in wanted if name not in taken]
        by_rule |= _found(rest, left, frozenset(optional))
    renamed = {name: by_rule.get(name, name) for name in names}
    _check_apart({old: new for old, new in renamed.items() if new})
    return renamed


def _by_rules(rules: Sequence[Rule], names: Collection[str]) -> dict[str, str]:
    unused = set(rules)
    found: dict[str, str] = {}
    for name in names:
        for rule in rules:
            new = rule.applied(name)
            if new is not None:
                found[name] = new
                unused.discard(rule)
                break
    if unused:
        rule = next(rule for rule in rules if rule in unused)
        if any(rule.applied(name) is not None for name in names):
            raise MismatchError(
                f"the rule {rule} comes too late: the rules before it take every name that it "
                "fits; move it forward, or leave it away"
            )
        raise MismatchError(f"the rule {rule} fits none of the names: {_first(names)}")
    return found


def _check_apart(renamed: Mapping[str, str]) -> None:
    by_new: dict[str, str] = {}
    for old, new in renamed.items():
        if new in by_new:
            raise MismatchError(f"both {by_new[new]!r} and {old!r} would be called {new!r}")
        by_new[new] = old


def _found(names: Sequence[str], wanted: Sequence[str], optional: frozenset[str]) -> dict[str, str]:
    """What auto finds; the first of its ways by which every wanted name is found once."""
    counters = [] if any(map(_is_counter, wanted)) else [n for n in names if _is_counter(n)]
    dropped = dict.fromkeys(counters, "")
    names = [name for name in names if name not in dropped]
    required = set(wanted) - optional
    for words in (_same_words, _other_words):
        for prefixes in ([_AS_IS], _prefix_rules(names, [n for n in wanted if n in required])):
            found = [_fitting(names, frozenset(wanted), words, prefix) for prefix in prefixes]
            fits = [fit for fit in found if fit is not None and not required - set(fit.values())]
            if fits:
                return _only(fits) | dropped
    both = set(names) & set(wanted)
    raise MismatchError(
        "auto finds no names that fit: only in the file: "
        f"{_first(n for n in names if n not in both)}; only in the model: "
        f"{_first(n for n in wanted if n not in both)}. Say which are to be left out "
        "(--map 'moments.*='), or give rules (--map OLD=NEW)"
    )


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTERS


def _only(fits: Sequence[dict[str, str]]) -> dict[str, str]:
    """The one fit; MismatchError when there are several."""
    one = fits[0]
    for other in fits[1:]:
        for name in one:
            if one[name] != other[name]:
                raise MismatchError(
                    f"auto finds names that fit in several ways: {name} could be {one[name]} or "
                    f"{other[name]}; say which by a rule (--map OLD=NEW)"
                )
    return one


def _prefix_rules(names: Sequence[str], wanted: Sequence[str]) -> list[Rule]:
    """Ways to take a prefix away or to add one."""
    return [
        *(Rule(f"{prefix}*", "*") for prefix in _prefixes(names)),
        *(Rule("*", f"{prefix}*") for prefix in _prefixes(wanted)),
    ]


def _prefixes(names: Sequence[str]) -> list[str]:
    """The dotted beginnings that all names share, the shortest first."""
    if not names:
        return []
    shared = names[0].split(".")[:-1]
    for name in names:
        parts = name.split(".")
        while shared and parts[: len(shared)] != shared:
            shared.pop()
    return [".".join(shared[: count + 1]) + "." for count in range(len(shared))]


def _fitting(
    names: Sequence[str], wanted: frozenset[str], words: _Words, prefix: Rule
) -> dict[str, str] | None:
    """The mapping when each name leads to one wanted name that no other leads to."""
    found: dict[str, str] = {}
    for name in names:
        plain = prefix.applied(name)
        candidates = words(plain) & wanted if plain else set()
        if len(candidates) != 1:  # of two, what the others leave would be a guess
            return None
        found[name] = candidates.pop()
    return found if len(set(found.values())) == len(found) else None


def _same_words(name: str) -> set[str]:
    return {name}


def _other_words(name: str) -> set[str]:
    """The name, and what it is in the other framework's words."""
    head, dot, last = name.rpartition(".")
    words = {last}
    words |= {theirs for ours, theirs in _WORDS if ours == last}
    words |= {ours for ours, theirs in _WORDS if theirs == last}
    return {f"{head}{dot}{word}" for word in words}


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return (", ".join(listed[:_NAMED]) or "none") + more
