"""What rules made of the names of a file, for people and for programs."""

from collections.abc import Mapping
from typing import Any

from weightd.cli.screen import print_line, print_table
from weightd.ipc.words import counted


def print_renamed(renamed: Mapping[str, str]) -> None:
    """A table of the names that changed, and how many did not."""
    changed = [(old, new or "(left out)") for old, new in renamed.items() if old != new]
    if changed:
        print_table(("in the file", "in the model"), changed)
    same = len(renamed) - len(changed)
    print_line(f"{counted(same, 'name')} {'is' if same == 1 else 'are'} the same in both")


def renamed_document(renamed: Mapping[str, str]) -> dict[str, Any]:
    return {
        "renamed": {old: new for old, new in renamed.items() if new and old != new},
        "left_out": [old for old, new in renamed.items() if not new],
    }
