"""What an earlier daemon stored, made by hand: real memory, real files, a real state."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from tests.scrub import KIB, sealed, tensors
from weightd.daemon.adoption import STATE, Adopted, adopt
from weightd.daemon.sources import file_name, folder_name
from weightd.daemon.state import KeptModel, KeptVersion, State, encode
from weightd.daemon.vault import segment_name
from weightd.ipc.segment import Segment
from weightd.ipc.slots import Slots
from weightd.weights.manifest import HEADER_NBYTES, Manifest


class Store:
    """What a daemon left: descriptors by name, and a state that names them."""

    def __init__(self) -> None:
        self.fds: list[tuple[str, int]] = []
        self.versions: list[KeptVersion] = []
        self.model = KeptModel("m", 7, 1, (), (), ())

    def put(self, name: str, fd: int) -> None:
        self.fds.append((name, fd))

    def version(self, number: int, **changes: object) -> KeptVersion:
        """One more version, live from now on. changes: to what its memory says of itself."""
        segment = memory(number, **changes)
        inode = segment.inode
        self.put(segment_name(inode), os.dup(segment.fileno()))
        segment.close()
        key = f"key{number}"
        self.put(file_name(key), os.open(os.devnull, os.O_RDONLY))
        self.put(folder_name(key), os.open("/", os.O_RDONLY))
        made = KeptVersion(100 + number, number, "LIVE", (inode,), key, "m.onnx")
        before = [msgspec.structs.replace(v, state="HELD") for v in self.versions]
        self.versions = [*before, made]
        return made

    def replace_fd(self, name: str, fd: int) -> None:
        """Have this under the name instead."""
        self.lose(name)
        self.put(name, fd)

    def lose(self, name: str) -> None:
        for found, fd in [item for item in self.fds if item[0] == name]:
            os.close(fd)
            self.fds.remove((found, fd))

    def state(self) -> State:
        numbers = tuple(v.number for v in self.versions)
        model = msgspec.structs.replace(
            self.model,
            versions=tuple(self.versions),
            was_live=numbers,
            next_number=max(numbers, default=0) + 1,
        )
        return State("incarnation", 150, (model,))

    def commit(self, raw: bytes | None = None) -> None:
        slots = Slots.new("weightd.state")
        slots.commit(encode(self.state()) if raw is None else raw)
        self.put(STATE, slots.fileno())


@contextmanager
def two_versions() -> Iterator[Store]:
    """Versions 1 and 2 of `m`. Closes what adopt() was not given."""
    made = Store()
    made.version(1)
    made.version(2)
    yield made
    for _, fd in made.fds:
        os.close(fd)


def memory(number: int, **changes: object) -> Segment:
    """A sealed segment, as a stager leaves it."""
    size = HEADER_NBYTES + 4 * KIB + 128 * KIB
    entries = tensors(1, 4 * KIB)
    values = {"model": "m", "version": number, "segments": (size,)} | changes
    manifest = Manifest(layout="tensors", tensors=entries, stamp={"engine": ""}, **values)  # type: ignore[arg-type]
    return sealed(manifest, {entries[0].offset: bytes(4 * KIB)})


def taken(store: Store, *, commit: bool = True) -> Adopted:
    if commit:
        store.commit()
    stored, store.fds = tuple(store.fds), []
    return adopt(stored)


def let_go(adopted: Adopted) -> None:
    with ExitStack() as resources:
        segments = {s.inode: s for f in adopted.versions.values() for s in f.segments}
        for segment in segments.values():
            resources.callback(segment.close)
        for source in adopted.sources.values():
            resources.callback(source.close)
        for process in adopted.processes:
            resources.callback(process.close)
        if adopted.slots is not None:
            resources.callback(adopted.slots.close)


def numbers(adopted: Adopted) -> list[tuple[int, str]]:
    return [(v.number, v.state.name) for m in adopted.models for v in m.versions.values()]


def names_of(version: KeptVersion) -> list[str]:
    return [segment_name(version.segments[0]), f"file.{version.source}", f"folder.{version.source}"]
