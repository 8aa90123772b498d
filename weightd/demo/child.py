"""`python -m weightd.demo.child PARENT ARGV…`: have the kernel end this process with its parent,
and become ARGV. What the kernel was told here outlives the exec."""

import os
import signal
import sys

from weightd.ipc import linux


def main(argv: list[str]) -> None:
    parent, command = int(argv[1]), argv[2:]
    linux.die_with_parent(signal.SIGKILL)
    if os.getppid() == parent:  # else it died before the kernel knew
        os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv)
