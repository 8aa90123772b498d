"""A real daemon whose stagers lie (lying_stager.py): run as the prefix of a daemon's command."""

import sys
from pathlib import Path

from weightd.daemon import main, staging

LIAR = (sys.executable, str(Path(__file__).parent / "lying_stager.py"))

defaults = staging.Staging.__init__.__kwdefaults__
assert defaults is not None
assert "stager" in defaults
defaults["stager"] = LIAR
sys.exit(main.main(sys.argv[sys.argv.index("weightd.daemon.main") :]))
