"""A booted machine: what an operator types on it, and programs that run on it as services."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.helpers import kill_and_reap, wait_until
from tests.systemd import debian

BOOT = Path(__file__).parent / "boot.sh"
PYTHON = "/opt/weightd/bin/python"
WEIGHTD = "/opt/weightd/bin/weightd"
SERVING = "/srv/weightd/tests/systemd/serving.py"
LENET = f"/opt/weightd/lib/python{debian.PYTHON}/site-packages/weightd/data/lenet5.onnx"
FINAL = LENET.replace("lenet5.onnx", "lenet5.safetensors")
EARLY = LENET.replace("lenet5.onnx", "lenet5_early.safetensors")
SOCKETS = ("weightd.socket", "weightd-attach.socket")
ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "WEIGHTD_RUNTIME_DIR": "/run/weightd",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/srv/wheels",
    "PIP_ROOT_USER_ACTION": "ignore",
}
UP = ("running", "degraded")  # systemd-modules-load fails: a container has no modules
_INODES = """
for fd in /proc/$1/fd/*; do
    case $(readlink $fd) in /memfd:*) stat -Lc %i $fd; esac
done
"""


class Machine:
    """What runs as PID 1 is the real systemd; `init` is its PID here."""

    def __init__(self, init: int) -> None:
        self.init = init

    def argv(self, *words: str) -> list[str]:
        """The command that runs this one on the machine, as root."""
        return ["nsenter", "--target", str(self.init), "--all", "--", *words]

    def run(
        self,
        *words: str,
        user: str | None = None,
        succeeds: bool = True,
        timeout_s: float = 120,
    ) -> "subprocess.CompletedProcess[str]":
        as_user = ["runuser", "--user", user, "--"] if user else []
        done = subprocess.run(
            self.argv(*as_user, *words),
            env=ENVIRON,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not succeeds or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def out(self, *words: str, user: str | None = None, timeout_s: float = 120) -> str:
        return self.run(*words, user=user, timeout_s=timeout_s).stdout.strip()

    def systemctl(self, *words: str) -> str:
        return self.out("systemctl", *words)

    def shown(self, name: str, unit: str = "weightd.service") -> str:
        """A property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit)

    @property
    def daemon(self) -> int:
        """The daemon's PID, as the machine sees it; 0 when there is none."""
        return int(self.shown("MainPID"))

    def signal(self, name: str) -> None:
        """Send the daemon, and nothing else of its unit, a signal."""
        self.systemctl("kill", "--kill-whom=main", f"--signal={name}", "weightd.service")

    def status(self) -> Any:
        """What `weightd status` says; it starts the daemon, if need be."""
        return json.loads(self.out(WEIGHTD, "status", "--json"))

    def journal(self, unit: str = "weightd.service") -> str:
        return self.out("journalctl", "--unit", unit, "--output", "cat", "--no-pager")

    def memfds(self, pid: int) -> set[int]:
        """The inodes of the memory that a process holds by descriptors."""
        return set(map(int, self.out("sh", "-c", _INODES, "sh", str(pid)).split()))

    def write(self, path: str, text: str) -> None:
        subprocess.run(
            self.argv("tee", path),
            env=ENVIRON,
            input=text,
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )

    def files(self) -> set[str]:
        """Every file of the machine's disk."""
        return set(self.out("find", "/", "-xdev").split("\n"))


class Service:
    """A program of a user's as a transient unit; it answers one JSON line with another."""

    def __init__(self, machine: Machine, unit: str, user: str) -> None:
        settings = ["--unit", unit, "--uid", user, "--pipe", "--quiet", "--collect"]
        variable = "--setenv=WEIGHTD_RUNTIME_DIR=/run/weightd"
        self.process = subprocess.Popen(
            machine.argv("systemd-run", *settings, variable, PYTHON, SERVING),
            env=ENVIRON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"the service ended with status {self.process.wait(10)}")
        return json.loads(line)

    def close(self) -> None:
        with self.process:
            if self.process.stdin is not None:
                self.process.stdin.close()  # its loop ends with its input
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()


@contextmanager
def running_service(machine: Machine, unit: str, user: str) -> Iterator[Service]:
    service = Service(machine, unit, user)
    try:
        yield service
    finally:
        service.close()


@contextmanager
def booted() -> Iterator[Machine]:
    """A machine of its own; at the end every process of it is gone, and each of its cgroups."""
    with ExitStack() as resources:
        scratch = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="wd-boot-")))
        (scratch / "mnt").mkdir()
        cgroup = Path(tempfile.mkdtemp(prefix="weightd-test-", dir=debian.own_cgroup()))
        resources.callback(_remove_cgroup, cgroup)
        log = scratch / "log"
        folders = [debian.root(), scratch / "mnt", debian.ROOT, debian.wheels(), cgroup]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(BOOT), *map(str, folders)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        resources.callback(kill_and_reap, process)
        yield Machine(_wait_until_booted(process, log))


def _wait_until_booted(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """The PID of its init, here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def is_up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"systemd did not boot:\n{log.read_text()}")
        if not (inits := children.read_text().split()):
            return False
        asked = Machine(int(inits[0])).run("systemctl", "is-system-running", succeeds=False)
        return asked.stdout.strip() in UP

    wait_until(is_up, timeout_s=60)
    return int(children.read_text())


def _remove_cgroup(cgroup: Path) -> None:
    """With those that systemd made in it, once the last process is gone."""
    wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text())
    for path, _, _ in os.walk(cgroup, topdown=False):
        Path(path).rmdir()
