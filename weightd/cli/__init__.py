"""The command line. app.py says which commands there are."""

from weightd.cli.app import PANELS, app, main

__all__ = ["PANELS", "app", "main"]
