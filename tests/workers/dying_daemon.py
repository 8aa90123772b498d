"""A daemon that kills itself before one step of the next thing that it does, as SIGKILL would.

A step is each time that it lets something out: to the fd store, to the state, to a client or a
worker. The file `die` in the runtime folder says before which one: its name, and how many of that
name are taken first. It is taken away before the end, so that the next daemon lives.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightd.daemon import main
from weightd.daemon.attach_plane import AttachPlane
from weightd.ipc import slots
from weightd.ipc.channel import ControlServer
from weightd.ipc.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable

order = Path(sys.argv[1]) / "die"
taken: list[str] = []


def step(name: str) -> None:
    if not order.exists():
        taken.clear()
        return
    wanted, number = order.read_text().split(",")
    if name == wanted and taken.count(name) == int(number):
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    taken.append(name)


def before(owner: Any, name: str, label: str) -> None:
    """Have calls of owner.name be a step."""
    call: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any, **options: Any) -> Any:
        step(label)
        return call(*args, **options)

    setattr(owner, name, counted)


before(Manager, "_send", "to the fd store")
before(slots, "_write", "the state's other slot")
before(slots.Slots, "_turn", "the state's commit word")
before(AttachPlane, "tell", "a notice")
before(ControlServer, "publish", "an event")
before(ControlServer, "reply", "a reply")
sys.exit(main.main(sys.argv))
