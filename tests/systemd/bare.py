"""A unit like weightd's, of the same sandbox, whose Python does nothing: what it takes systemd and
an interpreter to be there again. weightd itself is what comes on top."""

from tests.helpers import wait_until
from tests.systemd.killing import BARE, BARE_IS_UP
from tests.systemd.machine import PYTHON, Machine

_CODE = (
    "import os, signal; "
    f"fd = os.open('{BARE_IS_UP}', os.O_WRONLY | os.O_CREAT); "
    "os.write(fd, b'%8d' % os.getpid()); "
    "signal.pause()"
)
_WEIGHTDS_OWN = (
    "Type=",
    "NotifyAccess=",
    "Sockets=",
    "WatchdogSec=",
    "FileDescriptorStore",
    "RuntimeDirectory=",
)
_TEXT = """[Unit]
StartLimitIntervalSec=0

{service}
Type=exec
RuntimeDirectory={name}
ExecStart=
ExecStart={python} -P -c "{code}"
"""


def start_bare(machine: Machine) -> None:
    weightds = machine.out("cat", machine.shown("FragmentPath"))
    service = weightds[weightds.index("[Service]") : weightds.index("[Install]")]
    kept = "\n".join(line for line in service.splitlines() if not line.startswith(_WEIGHTDS_OWN))
    code = _CODE.replace("%", "%%")  # systemd has specifiers of its own
    text = _TEXT.format(service=kept, name=BARE, python=PYTHON, code=code)
    machine.write(f"/run/systemd/system/{BARE}.service", text)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", BARE)
    wait_until(lambda: machine.run("test", "-s", str(BARE_IS_UP), succeeds=False).returncode == 0)
