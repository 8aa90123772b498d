"""The drawing in CONTRIBUTING.md and DESIGN.md, kept true by the build."""

import ast
import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lowest first: a file may import its own layer and those before it.
LAYERS = [
    "weightd._version",
    "weightd.errors",
    "weightd.ipc",
    "weightd.weights",
    "weightd.backends",
    "weightd.daemon",
    "weightd",
    "weightd.benchmarks",
]
# The one file that may reach up, when its command is given.
DOORS = {"weightd/cli/bench.py": "weightd.benchmarks"}
FOLDERS = ["backends", "benchmarks", "daemon", "ipc", "weights"]
# Each outside world enters through one place.
OWNERS: dict[str, tuple[str, ...]] = {
    "zmq": ("ipc/channel.py",),
    "msgpack": ("ipc/wire.py",),
    "mmap": ("ipc/segment.py", "benchmarks/bare.py"),  # bare: a floor without us
    "ctypes": ("ipc/linux.py",),
    "onnxruntime": ("*/onnxruntime.py",),  # the engine; what we compare with
    "typer": ("weightd/cli/*",),
    "rich": ("weightd/*",),
    "matplotlib": ("benchmarks/plot.py",),
    "prometheus_client": ("weightd/exporter/*",),
}
ENGINES = {"numpy", "onnx", "onnxruntime"}
# A daemon that is started after a kill -9 has no time for these. A dataclass is 350 us at each
# start, a msgspec.Struct 9; secrets brings OpenSSL.
SLOW = {"dataclasses", "secrets", "tomllib"}


def files_in(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SOURCES = files_in(*FOLDERS, "weightd")  # rglob enters no link: each file once
EVERY_FILE = [*SOURCES, *files_in("examples", "tests")]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[!.]*/**/*.md")})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "weightd" else ("weightd", *parts))
    return name.removesuffix(".__init__")


def layer_of(module: str) -> int:
    layer = max((la for la in LAYERS if f"{module}.".startswith(f"{la}.")), key=len)
    return LAYERS.index(layer)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_file_imports_only_from_its_layer_or_below(path: Path) -> None:
    for imported in imports_of(path):
        top = imported.split(".")[0]
        assert top not in FOLDERS, f"write weightd.{imported}: a bare name loads a second copy"
        door = DOORS.get(short(path))
        if top == "weightd" and not (door and imported.startswith(door)):
            assert layer_of(imported) <= layer_of(module_name(path)), imported


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_an_outside_world_enters_through_its_owner(path: Path) -> None:
    for imported in imports_of(path):
        owners = OWNERS.get(imported.split(".")[0], ("*",))
        is_owner = any(fnmatch.fnmatch(short(path), owner) for owner in owners)
        assert is_owner, f"only {', '.join(owners)} may import {imported}"


@pytest.mark.parametrize("path", EVERY_FILE, ids=short)
def test_a_file_says_at_its_head_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "begin it with a docstring"


@pytest.mark.parametrize("path", EVERY_FILE, ids=short)
def test_files_and_functions_stay_small_enough_to_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nlines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert nlines <= 60, f"{node.name} has {nlines} lines"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_linked_into_the_package(folder: str) -> None:
    assert os.readlink(ROOT / "weightd" / folder) == f"../{folder}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("weightd", ENGINES | {"zmq", "msgpack", "typer", "rich", "prometheus_client"}),
        (
            "weightd.daemon.main",
            ENGINES | SLOW | {"ml_dtypes", "typer", "rich", "prometheus_client"},
        ),
    ],
)
def test_importing_it_stays_cheap(module: str, absent: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not absent & set(done.stdout.split())


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose)
    missing = [t for t in targets if ":" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_page_names_only_tests_that_exist(page: Path) -> None:
    tests = "\n".join(path.read_text() for path in files_in("tests"))
    files = {path.stem for path in files_in("tests")}
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert not {name for name in named - files if f"def {name}(" not in tests}
