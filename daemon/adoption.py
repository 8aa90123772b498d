"""What a daemon takes over from the one before it, out of the fd store.

Only what the state names, and only after a look: memory must be sealed, its manifest must be that
of the version, a process must be the same one. What is not as it should be is refused with the
reason, and the rest is adopted. What may pass (no descriptor or memory left, a manifest that a
newer weightd wrote) is not for this daemon to refuse: the model is set aside whole, for a later
one. A state that a newer weightd wrote sets everything aside: this daemon must not begin. Nothing
is read again: digests of tensors are the scrubber's.
"""

import errno
import fcntl
import os

import msgspec

from weightd.daemon.admin_plane import OfferedFile
from weightd.daemon.done import Entry
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
from weightd.errors import DamagedStateError, NewerFormatError, NotAllowedError, WeightdError
from weightd.ipc.peer import Process
from weightd.ipc.segment import Segment
from weightd.ipc.slots import Slots
from weightd.weights.manifest import read_manifest

STATE = "state"  # its name in the fd store
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
Stored = tuple[tuple[str, int], ...]


class Adopted(msgspec.Struct):
    """Whoever has it owns what is in it. versions and sources are by the versions' uids; unused:
    names in the store that nothing needs; refused: why something was not taken over; aside: models
    that a later daemon may take over, and reasons: why not this one. slots: None also where they
    are damaged, and new ones take their place."""

    incarnation: str = ""
    last_uid: int = 0
    done: tuple[Entry, ...] = ()
    slots: Slots | None = None
    models: list[Model] = msgspec.field(default_factory=list)
    versions: dict[int, Filled] = msgspec.field(default_factory=dict)
    sources: dict[int, OfferedFile] = msgspec.field(default_factory=dict)
    processes: list[Process] = msgspec.field(default_factory=list)
    unused: list[str] = msgspec.field(default_factory=list)
    refused: list[str] = msgspec.field(default_factory=list)
    aside: dict[str, KeptModel] = msgspec.field(default_factory=dict)
    reasons: dict[str, str] = msgspec.field(default_factory=dict)


class _LaterError(Exception):
    """Not for this daemon, but perhaps for a later one."""


def adopt(stored: Stored) -> Adopted:
    """Owns the descriptors from here on. NewerFormatError when all that is stored is to be left to
    a newer weightd."""
    adopted = Adopted()
    shelf = _Shelf(stored, adopted)
    try:
        state = _state(shelf, adopted)
        adopted.incarnation, adopted.last_uid = state.incarnation, state.last_uid
        adopted.done = state.done
        for kept in state.models:
            refused = len(adopted.refused)
            try:
                _adopt_model(kept, shelf, adopted)
            except _LaterError as error:
                del adopted.refused[refused:]
                _set_aside(kept, str(error), adopted)
    finally:
        shelf.clear()
    needed = {name for kept in adopted.aside.values() for name in names_in(kept)}
    adopted.unused = [name for name in adopted.unused if name not in needed]
    return adopted


def names_in(kept: KeptModel) -> tuple[str, ...]:
    """What is stored for a model."""
    names = [segment_name(inode) for v in kept.versions for inode in v.segments]
    for key in (version.source for version in kept.versions if version.source):
        names += (file_name(key), folder_name(key))
    return tuple(dict.fromkeys(names))


def _set_aside(kept: KeptModel, reason: str, adopted: Adopted) -> None:
    """Undo what of it was adopted."""
    adopted.aside[kept.name], adopted.reasons[kept.name] = kept, reason
    for version in kept.versions:
        adopted.versions.pop(version.uid, None)
        _drop_source(version.uid, adopted)


def _check_is_final(what: str, error: BaseException | None) -> None:
    """_LaterError when it may pass."""
    cause = error.__cause__ if isinstance(error, WeightdError) and error.__cause__ else error
    if isinstance(cause, NewerFormatError):
        raise _LaterError(f"{what}: {cause}") from error
    if isinstance(cause, OSError) and cause.errno in _PASSING:
        raise _LaterError(f"{what}: {cause.strerror}") from error


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
    except (DamagedStateError, NewerFormatError) as error:
        if slots is None:
            os.close(fd)
        else:
            slots.close()
        if isinstance(error, NewerFormatError):
            raise NewerFormatError(
                f"the state in the fd store was written by a newer weightd ({error}). Nothing is "
                "given up, and this weightd does not begin: start the newer one, or give up what "
                "is stored (`systemctl stop weightd`, `systemctl clean --what=fdstore weightd`; "
                "or end the keeper)"
            ) from error
        adopted.refused.append(f"the state, and with it everything: {error}")
        return nothing
    adopted.slots = slots
    return state


def _adopt_model(kept: KeptModel, shelf: _Shelf, adopted: Adopted) -> None:
    model = model_of(kept)
    for version in kept.versions:
        try:
            filled = _filled(kept.name, version, shelf)
            source = _source(version, shelf, adopted)
        except (WeightdError, OSError) as error:
            _check_is_final(f"version {version.number}", error)
            adopted.refused.append(f"{kept.name} version {version.number}: {error}")
            continue
        adopted.versions[version.uid] = filled
        model.versions[version.number] = version_of(version)
        if source is not None:
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
        try:
            process = Process.of_pid(pid)
        except NotAllowedError as error:  # it has ended
            _check_is_final(f"allowed process {pid}", error)
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
