"""A daemon whose stagers do as a file says, for as long as it exists:

    lie             take a wrong answer for the right one
    halt at STEP    stop themselves (SIGSTOP) when they have reported this step

As a daemon:   saboteur.py FILE PYTHON -P -m weightd.daemon.main ARGUMENTS...
As a stager:   saboteur.py FILE stager REPORT_FD
"""

import os
import runpy
import signal
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

from weightd.daemon import stager
from weightd.daemon.staging import Staging
from weightd.ipc import protocol

flag = Path(sys.argv[1])


def lie() -> None:
    """Add 1 to every reference answer."""
    from weightd.backends import optimised
    from weightd.backends.answer import ask as honest

    def ask(*arguments: Any) -> Any:
        found = honest(*arguments)
        return found._replace(outputs={name: a + 1 for name, a in found.outputs.items()})

    mock.patch.object(optimised, "ask", ask).start()


def halt_at(step: str) -> None:
    honest = stager.Reporter.send

    def send(reporter: stager.Reporter, message: protocol.Message) -> None:
        honest(reporter, message)
        if isinstance(message, protocol.Progress) and message.step == step:
            os.kill(os.getpid(), signal.SIGSTOP)

    mock.patch.object(stager.Reporter, "send", send).start()


if sys.argv[2] == "stager":
    match flag.read_text().split() if flag.exists() else []:
        case ["lie"]:
            lie()
        case ["halt", "at", step]:
            halt_at(step)
    sys.argv = sys.argv[2:]
    sys.exit(stager.main())

program = [sys.executable, __file__, str(flag), "stager"]
start = partialmethod(Staging.__init__, stager=program)
mock.patch.object(Staging, "__init__", start).start()
sys.argv = sys.argv[5:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
