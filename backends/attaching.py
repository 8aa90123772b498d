"""How a process attaches to a model: by its name, or by a handle alone."""

import os

from weightd.backends.attachment import Attachment
from weightd.backends.threads import Threads
from weightd.errors import BadInputError
from weightd.ipc.lease import Lease
from weightd.ipc.runtime import RuntimeFolder


def attach(
    name: str,
    handle: int | None = None,
    *,
    runtime_dir: str | os.PathLike[str] | None = None,
    threads: int = 1,
    timeout_s: float = 10.0,
) -> Attachment:
    """Attach this process to a model of the daemon: map its live version and open an engine on it.

    The kernel tells the daemon who this process is; it must have been allowed (Client.allow).
    handle: the number that allow() returned, or None. runtime_dir: the daemon's folder, None for
    the default. threads: of the engine, for one prediction. timeout_s: how long each answer of
    the daemon may take. The caller owns the attachment and closes it.

    Where this process has another onnxruntime than the version was compiled for, it waits until the
    daemon has staged the version once more with its original tensors.

    Raises NoDaemonError, NotAllowedError, BadHandleError, UnknownModelError, LimitError,
    EngineMismatchError (TensorsNeededError: the tensors cannot be had), AnswerError,
    DaemonTimeoutError.
    """
    if threads < 1:
        raise BadInputError(f"threads is {threads}; it must be at least 1")
    lease = Lease(RuntimeFolder.find(runtime_dir, os.environ), timeout_s=timeout_s)
    try:
        return Attachment(lease, lease.attach(name, handle), threads=(Threads(threads),))
    except BaseException:
        lease.close()
        raise


def attach_by_handle(
    handle: int, folder: RuntimeFolder, *, threads: tuple[Threads, ...], timeout_s: float = 10.0
) -> Attachment:
    """As attach(), to the model that the handle is for. threads: of each session that is opened,
    of which every prediction has one to itself."""
    lease = Lease(folder, timeout_s=timeout_s)
    try:
        return Attachment(lease, lease.attach(None, handle), threads=threads)
    except BaseException:
        lease.close()
        raise


def current_pid(
    *, runtime_dir: str | os.PathLike[str] | None = None, timeout_s: float = 10.0
) -> int:
    """This process's PID as the kernel reports it to the daemon: what to give to Client.allow.

    In a container it differs from os.getpid(). Works for every user whom the daemon's attach
    socket lets in. Raises NoDaemonError, NotAllowedError (no PID here), DaemonTimeoutError.
    """
    lease = Lease(RuntimeFolder.find(runtime_dir, os.environ), timeout_s=timeout_s)
    try:
        return lease.current_pid()
    finally:
        lease.close()
