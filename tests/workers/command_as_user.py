"""Becomes another user, then runs weightd's command line: command_as_user.py UID[:GID,GID] WORDS …

What that needs is imported first: the interpreter may lie where the other user cannot read.
"""

import contextlib
import importlib
import io
import os
import pkgutil
import sys

import weightd.cli
from tests.workers.as_user import become
from weightd.cli.app import app, main

NEEDED = (
    "encodings.cp437",
    "rich.box",
    "rich.live",
    "rich.table",
    "weightd.evaluation",
    "weightd.readings",
)

for module in pkgutil.iter_modules(weightd.cli.__path__, "weightd.cli."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in NEEDED:
    importlib.import_module(name)
with contextlib.redirect_stdout(io.StringIO()):  # what typer itself imports when it is used
    app(["doctor", "--runtime-dir", "/nowhere"], standalone_mode=False)
become(sys.argv[1])
os.chdir("/")
sys.argv = ["weightd", *sys.argv[2:]]
main()
