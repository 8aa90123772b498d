"""docs/operators.md: each command on it does what the page says, on a machine of its own."""

import re
import shlex

from tests.systemd import debian
from tests.systemd.conftest import inhabited

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BEFORE = "cd /srv/weightd; mkdir /srv/models /srv/app; cp weightd/data/lenet5.onnx /srv/models"


def test_every_command_on_the_page_works_in_the_order_of_the_page() -> None:
    page = (debian.ROOT / "docs" / "operators.md").read_text()
    steps = [step(language, text) for language, text in BLOCK.findall(page)]
    with inhabited() as machine:
        files = machine.files()
        done = machine.run("sh", "-eux", "-c", "\n".join([BEFORE, *steps]), succeeds=False)
        assert done.returncode == 0, done.stderr
        told = [line for line in done.stdout.splitlines() if line.startswith("models ")]
        assert [line.split()[1] for line in told] == ["1"] * 4  # all the while, upgrade included
        assert "alice" in done.stdout
        left = {path for path in machine.files() - files if "/weightd" in path}
        assert left == set()


def step(language: str, text: str) -> str:
    """A block of the page as shell: commands, or a file that begins with its own path."""
    if language == "sh":
        return text
    path = text.splitlines()[0].removeprefix("# ")
    return f"printf %s {shlex.quote(text)} >{path}"
