"""`weightd doctor`: is this machine fit for weightd, and what to do where it is not.

A check tries the thing itself where it can, in this process; it changes nothing that lasts.
"""

import os
import platform
import re
import resource
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import typer

from weightd._version import __version__
from weightd.cli.options import AsJson, RuntimeDir, connect
from weightd.cli.screen import print_json, print_line, print_table, size
from weightd.errors import NoAccessError, NoDaemonError, WeightdError

_OLDEST_KERNEL = (5, 6)  # openat2
_MIN_DESCRIPTORS = 4096
_LITTLE_MEMORY_NBYTES = 512 * 2**20
_SHMEM_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_LIBRARIES = ("numpy", "onnx", "onnxruntime")
_UNFIT = 1  # exit status


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, 'ok', 'warn' or 'fail', what was found, and what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def doctor(runtime_dir: RuntimeDir = None, as_json: AsJson = False) -> None:
    """Check this machine: kernel, memory, limits, libraries, and whether a daemon answers.

    The exit status is 1 when a check fails; a warning costs speed or safety, not function.

    \b
    Examples:
      weightd doctor
      weightd doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    checks = [check() for check in _CHECKS]
    checks += [_library(name) for name in _LIBRARIES]
    checks += [_folder(runtime_dir), _daemon(runtime_dir)]
    is_fit = all(check.state != "fail" for check in checks)
    if as_json:
        print_json({"ok": is_fit, "checks": [asdict(check) for check in checks]})
    else:
        print_table(
            ("check", "state", "found", "what to do"),
            ((check.name, check.state, check.found, check.advice) for check in checks),
        )
        print_line("weightd can run here" if is_fit else "weightd cannot run here yet")
    if not is_fit:
        raise typer.Exit(_UNFIT)


# --- the kernel ----------------------------------------------------------------------------


def _kernel() -> Check:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    if sys.platform != "linux" or match is None:
        return Check("kernel", "fail", f"{sys.platform} {release}", "run weightd on Linux")
    if (int(match[1]), int(match[2])) < _OLDEST_KERNEL:
        return Check("kernel", "fail", f"Linux {release}", "update to Linux 5.6 or newer")
    return Check("kernel", "ok", f"Linux {release}")


def _identity() -> Check:
    from weightd.ipc.peer import identity_kind

    try:
        kind = identity_kind()
    except (WeightdError, OSError) as error:
        return Check("process identity", "fail", str(error), "allow pidfd_open, or mount /proc")
    if kind == "pidfs":
        return Check("process identity", "ok", "pidfs")
    return Check(
        "process identity", "warn", kind, "good enough; Linux 6.9 has pidfs, which is exact"
    )


def _sealing() -> Check:
    from weightd.ipc.segment import Segment, check_seals, new_memfd

    name = "sealed memory"
    with ExitStack() as resources:
        try:
            fd = new_memfd("weightd:doctor")
            check_fd = os.dup(fd)
            resources.callback(os.close, check_fd)
            Segment.allocate(fd, resource.getpagesize()).seal()
            check_seals(check_fd)
        except (WeightdError, OSError) as error:
            return Check(name, "fail", str(error), "allow memfd_create and its seals (seccomp?)")
    return Check(name, "ok", "a memfd can be sealed")


def _unix_sockets() -> list[tuple[bool, str]]:
    """Whether descriptors can be refused, and senders be stamped."""
    from weightd.ipc import linux

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return [
            (linux.refuse_descriptors(sock), "SO_PASSRIGHTS"),
            (linux.stamp_senders(sock), "SO_PASSPIDFD"),
        ]


def _passrights() -> Check:
    has_it, name = _unix_sockets()[0]
    if has_it:
        return Check(name, "ok", "workers cannot send descriptors")
    advice = "nothing: each worker is read in a thread instead; Linux 6.16 has it"
    return Check(name, "warn", "not in this kernel", advice)


def _passpidfd() -> Check:
    has_it, name = _unix_sockets()[1]
    if has_it:
        return Check(name, "ok", "each message tells its sender")
    return Check(
        name, "warn", "not in this kernel", "do not hand attach sockets on; Linux 6.5 has it"
    )


def _huge_pages() -> Check:
    name = "shmem huge pages"
    try:
        setting = _SHMEM_HUGE_PAGES.read_text()
    except OSError as error:
        found = error.strerror or str(error)
        return Check(name, "warn", found, "nothing: 4 KiB pages work, large models read slower")
    chosen = re.search(r"\[(\w+)\]", setting)
    value = chosen[1] if chosen else setting.strip()
    if value in ("never", "deny"):
        return Check(name, "warn", value, f"for large models: echo advise > {_SHMEM_HUGE_PAGES}")
    return Check(name, "ok", value)


# --- limits and libraries --------------------------------------------------------------------


def _descriptors() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    found = f"{limit} (soft {soft}; the daemon raises it)"
    if hard != resource.RLIM_INFINITY and hard < _MIN_DESCRIPTORS:
        advice = f"raise it for many workers: ulimit -Hn {_MIN_DESCRIPTORS}, or LimitNOFILE="
        return Check("open files", "warn", found, advice)
    return Check("open files", "ok", found)


def _memory() -> Check:
    from weightd.ipc import memory

    limit = memory.available()
    found = f"{size(limit.nbytes)} left by the {limit.name}"
    if limit.nbytes < _LITTLE_MEMORY_NBYTES:
        return Check("memory", "warn", found, "free some, or raise that limit")
    return Check("memory", "ok", found)


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _library(name: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", f"pip install {name}")


# --- the daemon ------------------------------------------------------------------------------


def _folder(runtime_dir: Path | None) -> Check:
    from weightd.ipc.runtime import RuntimeFolder

    name = "runtime folder"
    try:
        folder = RuntimeFolder.find(runtime_dir, os.environ)
        if not folder.path.exists():
            return Check(name, "ok", f"{folder.path} (weightd keeper makes it)")
        mode = stat.S_IMODE(folder.path.stat().st_mode)
        if folder.path.stat().st_uid == os.geteuid():
            folder.create(mode)  # it exists, and keeps its mode: this only checks it
        return Check(name, "ok", f"{folder.path} (mode {mode:o})")
    except (WeightdError, OSError) as error:
        return Check(name, "fail", str(error), "choose another with --runtime-dir")


def _daemon(runtime_dir: Path | None) -> Check:
    try:
        with connect(runtime_dir, timeout_s=3) as client:
            status = client.status()
    except NoAccessError as error:
        return Check("daemon", "warn", "lets this user not in", str(error))
    except NoDaemonError as error:
        return Check("daemon", "warn", "none answers", str(error))
    except WeightdError as error:
        return Check("daemon", "fail", type(error).__name__, str(error))
    found = f"pid {status.pid}, weightd {status.version}, models: {len(status.models)}"
    if status.version != __version__:
        return Check("daemon", "warn", found, f"restart it: this is weightd {__version__}")
    if status.notes:
        return Check("daemon", "warn", found, "; ".join(status.notes))
    return Check("daemon", "ok", found)


_CHECKS: tuple[Callable[[], Check], ...] = (
    _kernel,
    _identity,
    _sealing,
    _passrights,
    _passpidfd,
    _huge_pages,
    _descriptors,
    _memory,
    _python,
)
