"""Valid messages, and what an attacker makes of them. Pure: the same seed gives the same bytes."""

from collections.abc import Callable, Sequence
from random import Random

from weightd.ipc import protocol

FUZZED = "fuzzed"  # no model has this name
_HUGE = 70_000  # more than a message may have

CONTROL: tuple[bytes, ...] = tuple(
    protocol.encode(message)
    for message in (
        protocol.CurrentPid(),
        protocol.Status(),
        protocol.Load(FUZZED, 1),
        protocol.Publish(FUZZED, 2**63, names=("a*=b*", "auto")),
        protocol.Update(FUZZED, 3),
        protocol.Rollback(FUZZED, 3, once=7),
        protocol.Allow(FUZZED, (1, 2), ("uid:7", "unit:a@*.service")),
        protocol.Deny(FUZZED, ("gid:7",), lift=True),
        protocol.Revoke(FUZZED, (1,), kill=False),
        protocol.Cancel(FUZZED),
        protocol.Verify(FUZZED),
        protocol.Unload(FUZZED),
    )
)
ATTACH: tuple[bytes, ...] = tuple(
    protocol.encode(message)
    for message in (
        protocol.CurrentPid(),
        protocol.Attach(FUZZED, 1),
        protocol.Attach(None, 2**64 - 1, incarnation="00", held=(1, 2, 3)),
        protocol.Pull(),
        protocol.Fetch(1, 15),
        protocol.Switched(1, 1.0),
        protocol.NotSwitched(2, "why"),
        protocol.Released(1),
        protocol.RunsOn("plain", ""),
        protocol.Unfit(1, "why"),
    )
)
ADMIN: tuple[bytes, ...] = tuple(
    protocol.encode(m) for m in (protocol.Offer("file", has_folder=True), protocol.Offer("f"))
)
KEEPER: tuple[bytes, ...] = (
    b"READY=1\nSTATUS=2 models",
    b"FDSTORE=1\nFDNAME=segment.7\nFDPOLL=0",
    b"FDSTOREREMOVE=1\nFDNAME=state",
    b"BARRIER=1",
    b"WATCHDOG=1",
)


def mutated(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed once to four times; rarely not at all."""
    raw = random.choice(seeds)
    if random.random() < 0.02:
        return raw
    for _ in range(random.randint(1, 4)):
        raw = random.choice(_CHANGES)(random, raw, seeds)
    return raw


def _flip(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    if not raw:
        return raw
    changed = bytearray(raw)
    for _number in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    return raw[: random.randint(0, len(raw))]


def _grow(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    return raw + random.randbytes(random.randint(1, 64))


def _splice(random: Random, raw: bytes, seeds: Sequence[bytes]) -> bytes:
    other = random.choice(seeds)
    return raw[: random.randint(0, len(raw))] + other[random.randint(0, len(other)) :]


def _insert(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    """Bytes that begin a number, text, array or map of msgpack, as long as can be said."""
    at = random.randint(0, len(raw))
    start = random.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xcf", b"\xc9", b"\xcb"))
    return raw[:at] + start + random.choice((b"\xff" * 8, b"\0" * 8)) + raw[at:]


def _nest(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    return random.choice((b"\x91", b"\x81\xa1m")) * random.randint(1, 2000) + raw


def _swell(random: Random, raw: bytes, _: Sequence[bytes]) -> bytes:
    if random.random() > 0.05:  # now and then: each is a big copy
        return raw
    return raw + b"\xa5" * random.choice((1000, _HUGE))


_CHANGES: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flip, _flip, _cut, _grow, _splice, _insert, _nest, _swell),
)
