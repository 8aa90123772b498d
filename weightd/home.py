"""Where the weights of a model live, and what runs it there.

PrivateHome   in this process, for it alone
SharedHome    in memory that a daemon holds, or the server of a process that shares its own: of
              the one who shares (it has a Master) and of those whom it let in
"""

import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

from weightd.backends.attaching import attach_by_handle
from weightd.backends.attachment import Attachment
from weightd.backends.origin import check_same_file
from weightd.backends.ports import TensorInfo, checked_inputs, infos_of
from weightd.backends.private import Private
from weightd.backends.threads import Threads
from weightd.config import BuildConfig
from weightd.errors import ForkedError, MismatchError, UsageError
from weightd.master import Master, folder_of
from weightd.weights.arrays import Array

Arrays = Mapping[str, Array]


class Home(ABC):
    """inputs, outputs: by name. parameters: the names of its weights. handle: of a shared model,
    else None. Owns what it opened, until close() or the end of the object."""

    handle: int | None = None

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = weakref.finalize(self, close)
        util = sys.modules.get("multiprocessing.util")
        if util is not None:  # children of multiprocessing end without what Python does at exit
            util.Finalize(self, self._close, exitpriority=0)
        self.inputs: dict[str, TensorInfo] = {}
        self.outputs: dict[str, TensorInfo] = {}
        self.parameters: frozenset[str] = frozenset()

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """Predict once, on one version of the weights."""

    @abstractmethod
    def check_may_update(self) -> None:
        """UsageError when only another process may update these weights."""

    @abstractmethod
    def update(self, tensors: Arrays) -> None:
        """Replace some weights; whoever predicts next sees all of them. Only after
        check_may_update()."""

    @abstractmethod
    def open_sizes(self, sizes: frozenset[tuple[str, int]]) -> AbstractContextManager[None]:
        """Let these axes of inputs, which the graph declares fixed, have any size from now on,
        unless the block fails."""

    def close(self) -> None:
        self._close()

    @property
    def is_closed(self) -> bool:
        return not self._close.alive


class PrivateHome(Home):
    """The weights are this process's own."""

    def __init__(self, path: str, threads: Threads, gpu: int | None, data: int | None) -> None:
        private = Private(path, threads, gpu=gpu, data=data)
        super().__init__(private.close)
        self._private = private
        self.inputs, self.outputs = infos_of(private.inputs), infos_of(private.outputs)
        self.parameters = frozenset(parameter.name for parameter in private.parameters)
        symbols = [d for port in private.inputs for d in port.shape if isinstance(d, str)]
        self._ties_sizes = len(set(symbols)) < len(symbols)

    def run(self, inputs: Arrays) -> Arrays:
        if self._ties_sizes:  # onnxruntime would spread the smaller one; all else it checks itself
            inputs = checked_inputs(inputs, self._private.inputs)
        return self._private.run(inputs)

    def check_may_update(self) -> None:
        """It may."""

    def update(self, tensors: Arrays) -> None:
        self._private.update(tensors)

    def open_sizes(self, sizes: frozenset[tuple[str, int]]) -> AbstractContextManager[None]:
        return self._private.open_sizes(sizes)


class SharedHome(Home):
    """The weights are in shared memory. master: of the process that shares them."""

    def __init__(self, attachment: Attachment, master: Master | None, handle: int) -> None:
        resources = ExitStack()
        if master is not None:
            resources.callback(master.acquire().release)
        resources.callback(attachment.close)
        super().__init__(resources.close)
        self.handle = handle
        self.master = master
        self._attachment = attachment
        self.inputs, self.outputs = attachment.inputs, attachment.outputs
        self.parameters = attachment.parameters

    def run(self, inputs: Arrays) -> Arrays:
        try:
            return self._attachment.predict(inputs)
        except ForkedError as error:
            raise ForkedError(
                "this model was built before a fork, and what it holds is the parent's: build it "
                "in the child, which must be on the list itself"
            ) from error

    def is_of(self, path: str) -> bool:
        """Whether the file is the model that is shared."""
        try:
            check_same_file(path, self._attachment.stamp)
        except MismatchError:
            return False
        return True

    def check_may_update(self) -> None:
        if self.master is None:
            raise UsageError(
                "this process uses weights that another one shares, and only that one may update "
                "them: call update_weights there; it reaches this process too"
            )

    def update(self, tensors: Arrays) -> None:
        assert self.master is not None, "check_may_update() has passed"
        self.master.update(tensors, self._attachment)

    def open_sizes(self, sizes: frozenset[tuple[str, int]]) -> AbstractContextManager[None]:
        names = ", ".join(sorted({name for name, _ in sizes}))
        raise MismatchError(
            f"the shared weights were compiled for the sizes that the file declares for {names}; "
            "export the model with dynamic sizes there (a dimension of -1) to change them"
        )


def private(
    path: str, threads: Threads, *, gpu: int | None = None, data: int | None = None
) -> Home:
    """The model for this process alone; on the CPU, or on a GPU by its number. data: a descriptor
    of its external data, if not in the file's folder."""
    return PrivateHome(path, threads, gpu, data)


def shared_by_us(
    path: str, threads: Sequence[Threads], config: BuildConfig, environ: Mapping[str, str]
) -> SharedHome:
    """The model for this process and those on the list of `config`."""
    master = Master(path, config.pids or (), config, environ).acquire()
    try:
        return attached(master, threads)
    finally:
        master.release()


def attached(master: Master, threads: Sequence[Threads]) -> SharedHome:
    """One more use of what this process shares, with sessions of its own."""
    attachment = attach_by_handle(master.handle, master.folder, threads=tuple(threads))
    return SharedHome(attachment, master, master.handle)


def shared_by_another(
    path: str, threads: Sequence[Threads], handle: int, environ: Mapping[str, str]
) -> SharedHome:
    """The model that another process shares under this handle. `path` must be the same model; its
    weights are not read: where it is another copy of the file they are compared, in passing."""
    attachment = attach_by_handle(handle, folder_of(handle, environ), threads=tuple(threads))
    try:
        check_same_file(path, attachment.stamp)
    except BaseException:
        attachment.close()
        raise
    return SharedHome(attachment, None, handle)


def file_key(path: str) -> tuple[int, int]:
    """Tells whether two paths are one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
