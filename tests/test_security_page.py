"""SECURITY.md: each attack that it lists names tests, and each of these is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "SECURITY.md"
_CELLS = 3  # attack, what holds, tests
_NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """The rows of the tables of attacks, without their heads."""
    page = PAGE.read_text()
    attacks = page[page.index("\n## Attacks\n") : page.index("\n## What is not promised\n")]
    lines = [line for line in attacks.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in {"attack", "---"}]


def defined_in(path: str) -> set[str]:
    """What of a file pytest runs: functions of the file itself."""
    file = ROOT / path
    if not file.exists():
        return set()
    body = ast.parse(file.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_the_page_has_its_list_of_attacks() -> None:
    assert len(rows()) > 50


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:50])
def test_an_attack_names_the_tests_that_hold_it_and_they_are_there(row: list[str]) -> None:
    assert len(row) == _CELLS
    named = _NAME.findall(row[2])
    assert named, "which test holds this?"
    assert [n for n in named if n[1] not in defined_in(n[0])] == []
    rest = _NAME.sub("", row[2]).strip(", ")
    assert not rest, "name a test as `tests/test_x.py::test_name`"
