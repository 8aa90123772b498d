"""A Scrubbing without a server around it, and versions for it with wrong bytes.

Sealed memory cannot be changed, so they are there before it is sealed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from weightd.daemon.catalog import Catalog
from weightd.daemon.loop import Loop
from weightd.daemon.model import Action, Free
from weightd.daemon.scrubbing import Scrubbing
from weightd.daemon.settings import Settings
from weightd.daemon.staging import Filled
from weightd.daemon.vault import Vault
from weightd.ipc import protocol
from weightd.ipc.segment import Segment, new_memfd, reopen_read_only
from weightd.ipc.status import VersionCheck
from weightd.weights.entries import TensorEntry
from weightd.weights.manifest import HEADER_NBYTES, Manifest, pack_header

if TYPE_CHECKING:
    from weightd.errors import WeightdError

KIB = 1024
FAST = Settings(scrub_mb_per_s=1e6, scrub_pause_s=0.001)


def tensors(count: int, nbytes: int, *, begin: int = HEADER_NBYTES) -> tuple[TensorEntry, ...]:
    """One after the other; each is full of its own number."""
    return tuple(
        TensorEntry(
            f"t{n}", "uint8", (nbytes,), 0, begin + n * nbytes, nbytes,
            xxh3_128_digest(bytes([n % 256]) * nbytes),
        )
        for n in range(count)
    )  # fmt: skip


def sealed(
    manifest: Manifest, content: dict[int, bytes], *, wrong: tuple[int, ...] = ()
) -> Segment:
    """Segment 0 of a version. content: by offset; wrong: offsets of bytes that get a flipped
    bit."""
    nbytes = manifest.segments[0]
    fd = new_memfd("weightd:scrub")
    keep = reopen_read_only(fd)
    segment = Segment.allocate(fd, nbytes)
    raw = manifest.encode()
    with segment.data as data:
        place = nbytes - len(raw)
        header = pack_header(place, raw)
        data[: len(header)] = header
        data[place:] = raw
        for offset, part in content.items():
            data[offset : offset + len(part)] = part
        for offset in wrong:
            data[offset] ^= 1
    segment.seal()
    return Segment.adopt(keep)


def plain(
    model: str = "m", *, count: int = 4, nbytes: int = 64 * KIB, wrong: tuple[int, ...] = ()
) -> Filled:
    """A version of `count` tensors; those numbers in `wrong` have one wrong bit."""
    entries = tensors(count, nbytes)
    size = HEADER_NBYTES + count * nbytes + 128 * KIB
    manifest = Manifest(
        model=model, version=1, layout="tensors", segments=(size,), tensors=entries,
        stamp={"engine": ""},
    )  # fmt: skip
    content = {entry.offset: bytes([n % 256]) * nbytes for n, entry in enumerate(entries)}
    places = tuple(entries[number].offset + nbytes - 1 for number in wrong)
    return Filled(manifest, (sealed(manifest, content, wrong=places),))


class House:
    """What a server has around a Scrubbing, and what it heard."""

    def __init__(self, settings: Settings) -> None:
        self.loop = Loop()
        self.catalog = Catalog()
        self.vault = Vault()
        self.events: list[tuple[str, str, int, str]] = []
        self.answers: list[protocol.Verified | WeightdError] = []
        self.progress: list[protocol.Progress] = []
        self.scrubbing = Scrubbing(self.loop, self.catalog, self.vault, settings, self)

    def perform(self, actions: list[Action]) -> None:
        assert not actions

    def emit(self, what: str, model: str, version: int, pid: int, text: str = "") -> None:
        self.events.append((what, model, version, text))

    def hold(self, filled: Filled) -> None:
        """Make it the model's live version."""
        name = filled.manifest.model
        is_new = name not in self.catalog.models
        version = self.catalog.stage_new(name) if is_new else self.catalog.stage_next(name)
        self.vault.put(version.uid, filled)
        self.free(self.catalog.publish(name, 0))

    def free(self, actions: object) -> None:
        assert isinstance(actions, list)
        for action in actions:
            if isinstance(action, Free):
                self.vault.free(action.uid)
                self.scrubbing.freed(action.uid)

    def run_until(self, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Turn the loop until the condition holds."""
        deadline = time.monotonic() + timeout_s

        def look() -> None:
            if condition():
                self.loop.stop()
            elif time.monotonic() > deadline:
                raise TimeoutError
            else:
                self.loop.call_later(0.005, look)

        self.loop._stopping = False  # a loop runs once in a daemon's life, here more often
        look()
        self.loop.run()

    def verify(self, name: str | None = None) -> tuple[VersionCheck, ...]:
        self.answers.clear()
        self.scrubbing.verify(name, self.progress.append, self.answers.append)
        self.run_until(lambda: self.answers)
        [answer] = self.answers
        assert isinstance(answer, protocol.Verified), answer
        return answer.versions

    @property
    def scrubber(self) -> int:
        """The PID of the one scrubber that runs, else 0."""
        return next((check.pid or 0 for check in self.scrubbing._checks()), 0)

    def close(self) -> None:
        self.scrubbing.stop()
        self.run_until(lambda: self.scrubbing.is_idle)
        self.vault.close()
        self.loop.close()


@contextmanager
def running_house(settings: Settings) -> Iterator[House]:
    house = House(settings)
    try:
        yield house
    finally:
        house.close()
