"""settings.py: what an operator writes is understood, or refused by the name of the key."""

import datetime
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from weightd.daemon.origin import Origin
from weightd.daemon.roles import Role
from weightd.daemon.settings import (
    ModelSettings,
    Settings,
    access_of,
    from_file,
    from_values,
    nbytes,
)
from weightd.errors import SettingsError
from weightd.ipc import protocol


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
        {"models": {"a": {"allow": ["uid:1"]}}},
        {"models": {"a": {"path": "x.onnx", "allow": "uid:1"}}},
        {"models": {"a": {"path": "x.onnx", "allow": ["exe:/bin/sh"]}}},
        {"models": {"a": {"path": "x.onnx", "deny": ["user:no-such-user"]}}},
        {"models": {"a": {"path": "x.onnx", "who": []}}},
        {"deny": ["uid:65534"]},
        {"deny": "uid:1"},
        {"admins": ["no-such-user"]},
        {"admins": ["@no-such-group"]},
        {"admins": [-1]},
        {"admins": "root"},
        {"roles": {"reboot": "admin"}},
        {"roles": {"load": "root"}},
        {"control_group": "no-such-group"},
        {"versions_held": 2},
        {"keep": 64},
        {"requests_per_s_per_uid": 0},
        {"staged_nbytes_per_uid": "lots"},
        {"log_level": "LOUD"},
        {"attach_public": "yes"},
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused_with_the_place_where_it_stands(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        from_values(values, "weightd.toml")
    assert re.match(r"weightd\.toml(: | has no setting )", str(caught.value))


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


def test_a_model_has_a_path_or_a_path_and_rules(tmp_path: Path) -> None:
    path = tmp_path / "weightd.toml"
    path.write_text(
        'deny = ["uid:1002"]\nadmins = ["root", 1000, "@root"]\ncontrol_group = "root"\n'
        'staged_nbytes_per_uid = "2GiB"\n'
        '[roles]\nload = "admin"\n'
        '[models]\nbert = "/models/bert.onnx"\n'
        '[models.resnet]\npath = "/models/resnet.onnx"\n'
        'allow = ["user:root", "group:root", "unit:infer@*.service"]\ndeny = ["uid:1003"]\n'
    )
    settings = from_file(path)
    assert settings.paths == {"bert": "/models/bert.onnx", "resnet": "/models/resnet.onnx"}
    assert settings.staged_nbytes_per_uid == 2 * 2**30
    access = access_of(settings)
    assert list(access.policies) == ["resnet"]
    policy = access.policies["resnet"]
    assert list(map(str, policy.allow)) == ["uid:0", "gid:0", "unit:infer@*.service"]
    assert list(map(str, policy.deny)) == ["uid:1003"]
    assert list(map(str, access.deny)) == ["uid:1002"]
    assert access.control_gid == 0
    assert access.roles.is_admin(1000, 5)
    assert access.roles.table[protocol.Load] is Role.ADMIN


def test_a_wrong_rule_is_refused_with_its_place() -> None:
    model = {"path": "x.onnx", "deny": ["user:no-such-user"]}
    with pytest.raises(SettingsError, match=r"^here: models\.a\.deny: 'user:no-such-user': this"):
        from_values({"models": {"a": model}}, "here")


def test_settings_go_to_the_daemon_as_they_are() -> None:
    """As daemon.main.command() writes them, and the daemon reads them."""
    models: dict[str, str | ModelSettings] = {"a": "a.onnx", "b": ModelSettings("b", ("uid:1",))}
    settings = Settings(models=models, admins=("@root", 5), roles={"load": "admin"})
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


def test_the_folder_lets_others_through_only_where_a_socket_is_for_them() -> None:
    assert Settings().folder_mode == 0o700
    assert Settings(attach_public=True).folder_mode == 0o711
    assert Settings(control_group="root").folder_mode == 0o711


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


# --- what a refusal says -----------------------------------------------------------------

WRONG = [0, -1, 1.5, True, "x", "", "8 apples", [1], ["x"], [[1]], {"a": 1}, {"a b": "x"}]
WRONG += [float("nan"), float("inf"), 2**70, datetime.date(2026, 1, 1), ["uid:1", 3], None]
FOREIGN = re.compile(r"`(?!weightd)|\$|Expected|Object|Invalid|regex|msgspec|at least 1e")


def complaint_about(values: dict[str, Any]) -> str:
    """'' when nothing is wrong with them."""
    try:
        from_values(values, "here")
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_refusal_of_a_setting_is_a_sentence_that_names_it(name: str) -> None:
    complaints = [said for wrong in WRONG if (said := complaint_about({name: wrong}))]
    assert len(complaints) > len(WRONG) / 2
    for said in complaints:
        assert re.match(rf"here: (versions_held|{name}\b)", said)
        assert not FOREIGN.search(said)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keeep = 2", "FILE has no setting 'keeep' (did you mean 'keep'?); there are: models, "),
        ("keep = 0", "FILE: keep is 0, and must be a whole number, at least 1"),
        (
            'engine = "fast"',
            "FILE: engine is 'fast', and must be one of '', 'prepacked', 'plain', 'reference'",
        ),
        (
            "scrub_pause_s = 0",
            "FILE: scrub_pause_s is 0, and must be a number, more than 0 and at most 10000000",
        ),
        (
            '[models."a b"]\npath = "x"',
            "FILE: models has 'a b', which must be a model's name: 1 to 128 letters, ",
        ),
        (
            '[models.x]\npath = "a"\npathh = 2',
            "FILE: models.x has no setting 'pathh' (did you mean 'path'?); there are: path, ",
        ),
        ("[models.x]\nallow = []", "FILE: models.x lacks 'path', which must be the path of a "),
        (
            '[models.x]\npath = "a"\nallow = ["uid:1", 2]',
            "FILE: models.x.allow[1] is 2, and must be a rule of at most 300 characters, like ",
        ),
        ("[roles]\nkeep = 2", "'keep' belongs above the first [table]"),
        ('[models.x]\npath = "a"\nkeep = 2', "'keep' belongs above the first [table]"),
        ('[roles]\nlaod = "admin"', "FILE: roles: no request 'laod' (did you mean 'load'?); there"),
        ('[roles]\nload = "admn"', "FILE: roles.load: no role 'admn' (did you mean 'admin'?); "),
    ],
)
def test_a_refusal_says_where_it_is_what_is_there_and_what_may_be(
    text: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "weightd.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        from_file(path)
    assert says in str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keep": 0}, "--keep-versions is 0, and must be a whole number, at least 1"),
        ({"models": {"a b": "/x"}}, "--model has 'a b', which must be a model's name"),
        ({"memory_budget": "lots"}, "--memory-budget: 'lots' is no size"),
        ({"keep": 64}, r"more than --keep-versions \(64\), or nothing could be published"),
    ],
)
def test_what_came_by_an_option_is_called_by_it(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Origin("", given).read()
