"""settings.py: what an operator writes is understood, or refused by the name of the key."""

from pathlib import Path
from typing import Any

import pytest

from weightd.daemon.settings import Settings, from_file, from_values, nbytes
from weightd.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512", 512),
        ("512M", 512 * 2**20),
        ("8GiB", 8 * 2**30),
        ("8 GB", 8 * 2**30),
        ("1.5 g", 3 * 2**29),
        (" 2k ", 2048),
        ("1T", 2**40),
    ],
)
def test_a_size_is_bytes_in_powers_of_1024(text: str, expected: int) -> None:
    assert nbytes(text) == expected
    assert from_values({"memory_budget": text}, "here").memory_budget == expected


def test_a_size_may_be_a_number_and_none_is_no_limit() -> None:
    assert from_values({"memory_budget": 4096}, "here").memory_budget == 4096
    assert from_values({}, "here").memory_budget is None


@pytest.mark.parametrize("text", ["", "M", "8 X", "-1M", "1e9", "8GiBs", "0x10", "1 2", "\u0661M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is no size"):
        nbytes(text)


@pytest.mark.parametrize(
    "values",
    [
        {"kep": 2},
        {"keep": 0},
        {"keep": "2"},
        {"keep": True},
        {"engine": "fast"},
        {"memory_budget": 0},
        {"memory_budget": -1},
        {"memory_budget": 1.5},
        {"memory_budget": [1]},
        {"memory_budget": True},
        {"memory_budget": "lots"},
        {"memory_budget": "9" * 400 + "T"},
        {"stage_deadline_s": 0},
        {"stage_deadline_s": -1.0},
        {"stage_deadline_s": float("inf")},
        {"stage_deadline_s": float("nan")},
        {"stage_deadline_s": 1e300},
        {"leases_per_uid": 0},
        {"models": ["a"]},
        {"models": {"a": 1}},
        {"models": {"a/b": "x.onnx"}},
        {"models": {"..": "x.onnx"}},
        {"log_level": "LOUD"},
        {"attach_public": "yes"},
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused_with_the_place_where_it_stands(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        from_values(values, "weightd.toml")
    assert str(caught.value).startswith("weightd.toml: ")


def test_an_unknown_key_is_answered_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"`kep`.*the settings are: models, deny, admins,"):
        from_values({"kep": 2}, "weightd.toml")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weightd.toml"
    path.write_text(
        'keep = 3\nmemory_budget = "8GiB"\nstage_deadline_s = 30\nengine = "reference"\n'
        '[models]\nbert = "/models/bert.onnx"\n'
    )
    assert from_file(path) == Settings(
        keep=3,
        memory_budget=8 * 2**30,
        stage_deadline_s=30.0,
        engine="reference",
        models={"bert": "/models/bert.onnx"},
    )


def test_nothing_said_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    assert from_file(tmp_path / "empty.toml") == Settings()
    assert Settings().keep == 2


@pytest.mark.parametrize("content", [b"keep = ", b"\xff\xfe", b"keep = 1\nkeep = 2"])
def test_what_is_not_toml_is_refused_by_file_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weightd.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"weightd\.toml is not TOML"):
        from_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsError, match="cannot read"):
            from_file(path)
