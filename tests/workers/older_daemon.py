"""A daemon of an older weightd, for as long as the file `older` in the runtime folder says of what
it knows only an older form: `manifest`, or `state`."""

import sys
from pathlib import Path

from weightd.daemon import main
from weightd.ipc import slots
from weightd.weights import manifest

order = Path(sys.argv[1]) / "older"
of_what = order.read_text() if order.exists() else ""
if of_what == "manifest":
    manifest.FORMAT -= 1
elif of_what == "state":
    slots.LAYOUT -= 1
sys.exit(main.main(sys.argv))
