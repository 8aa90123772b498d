"""A Debian with systemd in a folder, and the wheels that weightd needs there: made once, kept in
build/, made anew when what goes in changes. `python -m tests.systemd.debian` makes them ahead."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / "build" / "systemd-root"
SUITE = "trixie"  # systemd 257
PYTHON = "3.13"  # trixie's
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3-venv", "make")
NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork", "--kill-child")
_NEWEST_GLIBC = 41  # 2.41, trixie's
_FROM_THE_HOST = ("etc/apt/sources.list", "etc/resolv.conf", "etc/hostname")


def why_not() -> str | None:
    """Why no machine can be booted here; None where one can."""
    if os.geteuid() != 0:
        return "booting systemd needs root"
    for tool in ("debootstrap", "apt-get", "unshare", "nsenter", "setpriv"):
        if shutil.which(tool) is None:
            return f"booting systemd needs {tool}"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "mount", "-t", "proc", "proc", "/proc"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        return f"no namespaces can be made here: {tried.stderr.strip()}"
    if not os.access(own_cgroup(), os.W_OK):
        return "no cgroup of version 2 can be made here"
    return None if mirror() else "apt knows no mirror of Debian's; run apt-get update"


def own_cgroup() -> Path:
    """This process's cgroup of version 2, wherever that hierarchy is mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounted = next((mount[1] for mount in mounts if mount[2] == "cgroup2"), "/nowhere")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/nowhere")
    return Path(mounted) / path.lstrip("/")


@functools.cache
def mirror() -> str | None:
    """Where this machine's apt gets Debian from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)"]
    filters = ["Origin: Debian", "Label: Debian", "Created-By: Packages"]
    done = subprocess.run([*command, *filters], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.split()), None)


def root() -> Path:
    """The Debian: nobody may write there."""
    return _cached("debian", [SUITE, *PACKAGES], _bootstrap)


def _bootstrap(target: Path) -> None:
    address = mirror()
    assert address is not None, "why_not() has passed"
    include = f"--include={','.join(PACKAGES)}"
    debootstrap = ["debootstrap", "--variant=minbase", include, SUITE, str(target), address]
    _run(["unshare", "--mount", "--pid", "--fork", "--kill-child", *debootstrap])
    for path in _FROM_THE_HOST:
        (target / path).unlink(missing_ok=True)
    for folder in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(target / folder)


def wheels() -> Path:
    """What `pip install` of the checkout needs, for the Debian's Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    return _cached("wheels", [PYTHON, platform.machine(), *wanted], _download, wanted)


def _download(target: Path, wanted: Sequence[str]) -> None:
    glibcs = [f"manylinux_2_{minor}" for minor in range(_NEWEST_GLIBC, 4, -1)]
    machine = platform.machine()
    platforms = [f"--platform={p}_{machine}" for p in [*glibcs, "manylinux2014", "linux"]]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(target)]
    for_it = ["--python-version", PYTHON, "--only-binary=:all:", *platforms]
    _run([*download, *for_it, *wanted])


def _cached(
    name: str,
    made_of: Sequence[str],
    make: Callable[..., None],
    *arguments: Sequence[str],
) -> Path:
    """The folder of this name that was made of just this, made now if there is none."""
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{key}"
    if not path.exists():
        print(f"making {path.relative_to(ROOT)}, once", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=CACHE) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            new.chmod(0o755)
            make(new, *arguments)
            new.rename(path)
    return path


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:8])} … failed:\n{done.stdout[-4000:]}")


if __name__ == "__main__" and why_not() is None:
    root()
    wheels()
