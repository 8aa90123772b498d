"""Two versions of one small model, the second built to follow the first, and their answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.versions import Built, built
from tests.zoo import ZOO, answer, bits_of, feed_of, private_session, seeds
from tests.zoo_entry import Entry, Feed
from weightd.backends.base import Session, named
from weightd.backends.prepacked.core import Core
from weightd.backends.prepacked.session import PrepackedSession, _Packed
from weightd.backends.threads import Threads
from weightd.backends.version import MappedVersion
from weightd.ipc.maps import read_maps
from weightd.weights.arrays import Array

Bits = dict[str, tuple[str, tuple[int, ...], bytes]]


@dataclass(frozen=True)
class Pair:
    """versions: 1 and 2. answers: what a private session says to `feed`, outputs and bits."""

    feed: Feed
    versions: tuple[Built, Built]
    answers: tuple[dict[str, Array], dict[str, Array]]
    bits: tuple[Bits, Bits]

    def map(self, number: int) -> MappedVersion:
        return self.versions[number - 1].map()

    def engine(self, number: int) -> str:
        return self.map(number).manifest.stamp["engine"]

    def open(self, number: int = 1, *, threads: int = 1) -> Session:
        """On the engine that the version was compiled for."""
        return named(self.engine(number)).open(self.map(number), threads=Threads(threads))

    def open_packed(self, number: int = 1, *, threads: int = 1) -> PrepackedSession:
        session = self.open(number, threads=threads)
        assert isinstance(session, PrepackedSession)
        assert session.engine == "prepacked"
        return session

    def run(self, runner: Session | Core) -> int:
        """Ask once: which version's answer it is, to the bit; 0 for neither's."""
        return self.number_of(runner.run(self.feed))

    def number_of(self, outputs: Mapping[str, Array]) -> int:
        found = bits_of(outputs)
        return self.bits.index(found) + 1 if found in self.bits else 0


def core_of(session: PrepackedSession) -> Core:
    """What the session runs on now."""
    opened = session._current.get()
    assert isinstance(opened, _Packed)
    return opened.core


def entry_named(name: str) -> Entry:
    (entry,) = [entry for entry in ZOO if entry.name == name]
    return entry


@contextmanager
def paired(entry: Entry, *, keep_tensors: bool = False) -> Iterator[Pair]:
    """The two seeds of an entry of the zoo, as versions 1 and 2."""
    first, second = seeds(entry)
    feed = feed_of(entry)
    answers = answer(private_session(first), feed), answer(private_session(second), feed)
    bits = bits_of(answers[0]), bits_of(answers[1])
    with (
        built(first, keep_tensors=keep_tensors) as older,
        built(second, live=older, keep_tensors=keep_tensors) as newer,
    ):
        yield Pair(feed, (older, newer), answers, bits)


def maps_of_memfds() -> int:
    """How many mappings of memfds this process has."""
    return sum("/memfd:" in mapping.path for mapping in read_maps())


def number_of_maps() -> int:
    """How many mappings this process has of files, whatever they are."""
    return len(read_maps())
