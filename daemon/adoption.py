"""What a daemon takes over from the one before it, out of the fd store.

Only what the state names, and only after a look: memory must be sealed, its manifest must be that
of the version, a process must be the same one. What is not as it should be is refused with the
reason, and the rest is adopted. Nothing is read again: digests of tensors are the scrubber's.
"""

import fcntl
import os
from contextlib import suppress

import msgspec

from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.model import Grant, Model, VersionState
from weightd.daemon.sources import file_name, folder_name
from weightd.daemon.staging import Filled
from weightd.daemon.state import (
    KeptModel,
    KeptVersion,
    State,
    decode,
    grant_of,
    model_of,
    policy_of,
    version_of,
)
from weightd.daemon.vault import segment_name
from weightd.errors import DamagedStateError, NotAllowedError, WeightdError
from weightd.ipc.peer import Process
from weightd.ipc.segment import Segment
from weightd.ipc.slots import Slots
from weightd.weights.manifest import read_manifest

STATE = "state"  # its name in the fd store
Stored = tuple[tuple[str, int], ...]


class Adopted(msgspec.Struct):
    """Whoever has it owns what is in it. versions and sources are by the versions' uids; unused:
    names in the store that nothing needs; refused: why something was not taken over. slots: None
    also where they are damaged, and new ones take their place."""

    incarnation: str = ""
    last_uid: int = 0
    slots: Slots | None = None
    models: list[Model] = msgspec.field(default_factory=list)
    versions: dict[int, Filled] = msgspec.field(default_factory=dict)
    sources: dict[int, OfferedFile] = msgspec.field(default_factory=dict)
    processes: list[Process] = msgspec.field(default_factory=list)
    unused: list[str] = msgspec.field(default_factory=list)
    refused: list[str] = msgspec.field(default_factory=list)


def adopt(stored: Stored) -> Adopted:
    """Owns the descriptors from here on."""
    adopted = Adopted()
    shelf = _Shelf(stored, adopted)
    try:
        state = _state(shelf, adopted)
        adopted.incarnation, adopted.last_uid = state.incarnation, state.last_uid
        for kept in state.models:
            _adopt_model(kept, shelf, adopted)
    finally:
        shelf.clear()
    return adopted


class _Shelf:
    """The descriptors that were stored, by name, until something takes them."""

    def __init__(self, stored: Stored, adopted: Adopted) -> None:
        self._fds: dict[str, int] = {}
        self._segments: dict[int, Segment] = {}  # adopted already: versions share them
        self._adopted = adopted
        for name, fd in stored:
            if name in self._fds:
                adopted.refused.append(f"a second descriptor with the name {name!r}")
                os.close(fd)
            else:
                self._fds[name] = fd

    @property
    def is_empty(self) -> bool:
        return not self._fds

    def take(self, name: str) -> int | None:
        """The caller owns it; give_back() undoes it."""
        return self._fds.pop(name, None)

    def give_back(self, name: str, fd: int) -> None:
        self._fds[name] = fd

    def segment(self, inode: int) -> Segment:
        """Sealed memory, mapped; DamagedStateError when it is not there or is not that."""
        if inode in self._segments:
            return self._segments[inode]
        name = segment_name(inode)
        fd = self.take(name)
        if fd is None:
            raise DamagedStateError(f"memory {inode} is not in the fd store")
        try:
            if os.fstat(fd).st_ino != inode:
                raise DamagedStateError(f"what is stored as {name!r} is other memory")
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                raise DamagedStateError(f"what is stored as {name!r} is open for writing")
            self._segments[inode] = Segment.adopt(fd)
        except BaseException:
            self.give_back(name, fd)
            raise
        return self._segments[inode]

    def clear(self) -> None:
        """What nothing took, and memory that no version uses."""
        used = {s.inode for filled in self._adopted.versions.values() for s in filled.segments}
        for inode in self._segments.keys() - used:
            self._segments.pop(inode).close()
            self._adopted.unused.append(segment_name(inode))
        for name, fd in self._fds.items():
            os.close(fd)
            self._adopted.unused.append(name)


def _state(shelf: _Shelf, adopted: Adopted) -> State:
    fd = shelf.take(STATE)
    nothing = State("", 0)
    if fd is None:
        if not shelf.is_empty:
            adopted.refused.append("everything that is stored: there is no state that names it")
        return nothing
    slots: Slots | None = None
    try:
        slots = Slots.adopt(fd)
        state = decode(slots.value) if slots.value else nothing
    except DamagedStateError as error:
        adopted.refused.append(f"the state, and with it everything: {error}")
        if slots is None:
            os.close(fd)
        else:
            slots.close()
        return nothing
    adopted.slots = slots
    return state


def _adopt_model(kept: KeptModel, shelf: _Shelf, adopted: Adopted) -> None:
    model = model_of(kept)
    for version in kept.versions:
        try:
            filled = _filled(kept.name, version, shelf)
        except WeightdError as error:
            adopted.refused.append(f"{kept.name} version {version.number}: {error}")
            continue
        adopted.versions[version.uid] = filled
        model.versions[version.number] = version_of(version)
        if (source := _source(version, shelf, adopted)) is not None:
            adopted.sources[version.uid] = source
    model.was_live = [number for number in kept.was_live if number in model.versions]
    if not model.was_live:
        adopted.refused.append(f"{kept.name}: none of its versions is left that was live")
        for each in model.versions.values():
            del adopted.versions[each.uid]
            _drop_source(each.uid, adopted)
        return
    if model.live.state is not VersionState.LIVE:
        model.live.state = VersionState.LIVE
        adopted.refused.append(
            f"{kept.name}: its live version is lost; version {model.live.number} is live instead"
        )
    _adopt_rights(model, kept, adopted)
    adopted.models.append(model)


def _adopt_rights(model: Model, kept: KeptModel, adopted: Adopted) -> None:
    try:
        model.policy = policy_of(kept)
    except DamagedStateError as error:  # it may have denied: nobody gets in till told anew
        adopted.refused.append(f"{error}; nobody may attach it now")
        return
    model.grants = list(filter(None, (_living(grant_of(g), adopted) for g in kept.grants)))


def _filled(name: str, kept: KeptVersion, shelf: _Shelf) -> Filled:
    """The version's memory; DamagedStateError or another error when it is not what it was."""
    if not kept.segments:
        raise DamagedStateError("the state names no memory for it")
    segments = tuple(shelf.segment(inode) for inode in kept.segments)
    with segments[0].data as data:
        manifest = read_manifest(data)
    if (manifest.model, manifest.version) != (name, kept.number):
        raise DamagedStateError(
            f"its memory says that it is {manifest.model!r} version {manifest.version}"
        )
    if manifest.segments != tuple(segment.nbytes for segment in segments):
        raise DamagedStateError("its memory is not of the sizes that its manifest names")
    return Filled(manifest, segments)


def _source(kept: KeptVersion, shelf: _Shelf, adopted: Adopted) -> OfferedFile | None:
    """The file that it was made from. Several versions may have the same one."""
    if not kept.source:
        return None
    for other in adopted.sources.values():
        if other.key == kept.source:
            return other.duplicate()
    file_fd = shelf.take(file_name(kept.source))
    if file_fd is None:
        adopted.refused.append(
            f"the file of version {kept.number}, {kept.source_name}: it is not in the fd store"
        )
        return None
    folder_fd = shelf.take(folder_name(kept.source))
    return OfferedFile(kept.source_name, file_fd, folder_fd, kept.source)


def _drop_source(uid: int, adopted: Adopted) -> None:
    if (source := adopted.sources.pop(uid, None)) is not None:
        source.close()
        if all(other.key != source.key for other in adopted.sources.values()):
            adopted.unused += (file_name(source.key), folder_name(source.key))


def _living(grant: Grant, adopted: Adopted) -> Grant | None:
    """Those of its processes that still live, as the same ones; None when none does."""
    for key, pid in list(grant.processes.items()):
        process = None
        with suppress(NotAllowedError):
            process = Process.of_pid(pid)
        if process is not None and process.key == key and process.is_alive():
            adopted.processes.append(process)
            continue
        if process is not None:
            process.close()
        del grant.processes[key]
    return grant if grant.processes else None


def names_of(filled: Filled, source: OfferedFile | None) -> dict[str, int]:
    """What of a new version must be parked: its own memory, and its file."""
    own = filled.segments[0]
    fds = {segment_name(own.inode): own.fileno()}
    if source is not None:
        fds[file_name(source.key)] = source.file_fd
        if source.folder_fd is not None:
            fds[folder_name(source.key)] = source.folder_fd
    return fds
