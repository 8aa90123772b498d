"""Starts a daemon that finds no SO_PASSRIGHTS, as on Linux before 6.16: old_kernel.py COMMAND...

The option's number is replaced by one that no kernel has, so setsockopt truly fails.
"""

import sys

from weightd.daemon import main
from weightd.ipc import linux

linux.SO_PASSRIGHTS = 0x7FFF
sys.exit(main.main(sys.argv[-3:]))
