"""What the daemon tells a stager, on its stdin, and what a stager reports, over its packet pipe."""

from typing import Annotated

import msgspec

from weightd.ipc.fields import Engine, ModelName, Uint64, VersionNumber
from weightd.ipc.protocol import Failed, Message, Progress


class Job(Message, frozen=True):
    """What a stager has to do. fds are numbers of descriptors that it inherits.

    is_overlay: what is not in the file of update_fd stays as the live version has it, and is read
    from that version's memory, or again from the file that it came from: file_fd, None when it came
    in memory. is_alone: it must fit the live version, but uses nothing of its memory, which is
    damaged; its graph only if that is whole.
    """

    model: ModelName
    version: VersionNumber
    file_name: str
    engine: Engine
    keep_tensors: bool
    file_fd: int | None
    folder_fd: int | None
    segment_fd: int
    base_fds: tuple[int, ...]  # the live version's segments, in its manifest's order
    budget_nbytes: int | None
    cpu_s: int
    answer_limit_s: float
    weights_only: bool = False
    names: tuple[str, ...] = ()
    is_overlay: bool = False
    is_alone: bool = False
    update_fd: int | None = None
    update_folder_fd: int | None = None
    update_name: str = ""
    kept_for: str = ""  # whose need it is that the tensors are kept; '' when they were asked for


class Staged(Message, frozen=True):
    """The segment is filled and sealed. base_segments: which of the live version's segments the
    new one uses too, by their number there, in the order of the new manifest."""

    nbytes: Uint64
    base_segments: Annotated[tuple[Uint64, ...], msgspec.Meta(max_length=15)] = ()


StagerReport = Progress | Staged | Failed
