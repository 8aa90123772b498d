"""Starts a daemon whose wall clock jumps years to and fro each time that it looks:
wild_clock.py COMMAND..."""

import itertools
import sys
import time

from weightd.daemon import main

_YEARS = itertools.cycle((0, 30, -40, 1000))
_real = time.time
time.time = lambda: _real() + next(_YEARS) * 3.15e7
sys.exit(main.main(sys.argv[-3:]))
