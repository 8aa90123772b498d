"""systemd/weightd.toml, the example that the service is installed with: true, and complete."""

import re
import tomllib
from pathlib import Path

from weightd.daemon.settings import Settings, from_file, from_values

EXAMPLE = Path(__file__).parent.parent / "systemd" / "weightd.toml"
SHOWN = re.compile(r"^# (?=\w+ = )", re.MULTILINE)  # a setting that is shown, not set


def test_it_sets_only_what_the_service_needs() -> None:
    assert from_file(EXAMPLE) == Settings(attach_public=True)


def test_it_names_every_setting_and_shows_the_defaults() -> None:
    values = tomllib.loads(SHOWN.sub("", EXAMPLE.read_text()))
    assert set(values) == set(Settings.__struct_fields__)
    # Those that are empty by default, and may name who is not on this machine.
    accounts = {"deny", "admins", "control_group", "roles"}
    examples = accounts | {"models", "memory_budget", "staged_nbytes_per_uid"}
    assert from_values(
        {name: value for name, value in values.items() if name not in examples}, "the example"
    ) == Settings(attach_public=True)
    values = {name: value for name, value in values.items() if name not in accounts}
    values["models"]["bert"].pop("allow")
    from_values(values, "the example")


def test_it_says_of_each_setting_what_it_is() -> None:
    paragraphs = EXAMPLE.read_text().split("\n\n")[1:]
    for paragraph in paragraphs:
        *comment, setting = paragraph.rstrip().splitlines()
        assert re.match(r"(# )?\w+ = ", setting), paragraph
        assert comment, paragraph
        assert all(line.startswith("# ") or line == "[models]" for line in comment), paragraph
