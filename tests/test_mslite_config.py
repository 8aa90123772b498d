"""A script's configuration: the ini file, config_dict over it, and what is wrong with either."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nets import dense, saved
from weightd import Model, ModelType, Tensor, config
from weightd.config import BuildConfig
from weightd.errors import SettingsError

pytestmark = pytest.mark.usefixtures("own_runtime")

Sections = dict[str, dict[str, str]]
PIDS, HANDLE = "shareable_weight_pid_list", "shareable_weight_mem_handle"
LIST = "variable_weights_file"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(), tmp_path / "model.mindir")


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as model:
        yield model


def ini(folder: Path, text: str) -> str:
    path = folder / "config.ini"
    path.write_text(text, newline="")
    return str(path)


# --- the file ----------------------------------------------------------------------------------

READ: dict[str, tuple[str, Sections]] = {
    "nothing": ("", {}),
    "a section": ("[a]\nb=c\n", {"a": {"b": "c"}}),
    "spaces": ("  [ a ]  \n  b  =  c d  \n", {"a": {"b": "c d"}}),
    "deeper lines are no continuation": ("[a]\nb=c\n\td=e\n", {"a": {"b": "c", "d": "e"}}),
    "Windows": ("\ufeff[a]\r\nb=c\r\n", {"a": {"b": "c"}}),
    "no last newline": ("[a]\nb=c", {"a": {"b": "c"}}),
    "comments": ("# no\n[a]\n; b=0\nb=c\n  # d=e\n", {"a": {"b": "c"}}),
    "a sign within a value": ("[a]\nb=c # d\n", {"a": {"b": "c # d"}}),
    "the last counts": ("[a]\nb=1\nb=2\n[c]\nd=e\n[a]\nf=g\n", {"a": {"b": "2", "f": "g"}}),
    "a value with an equals sign": ("[a]\nb=c=d\n", {"a": {"b": "c=d"}}),
    "an empty value": ("[a]\nb=\n", {"a": {"b": ""}}),
    "a key in brackets": ("[a]\n[op_name]=fp32\n", {"a": {"[op_name]": "fp32"}}),
    "a key with a colon": ("[a]\nAdd:0=fp32\n", {"a": {"Add:0": "fp32"}}),
    "keys keep their case": ("[a]\nB=1\nb=2\n", {"a": {"B": "1", "b": "2"}}),
    "signs mean nothing": ("[DEFAULT]\nb=%(c)s\n[a]\nc=${b}\n", {"a": {"c": "${b}"}}),
}


@pytest.mark.parametrize("case", READ)
def test_a_file_is_read_in_mindspores_dialect(tmp_path: Path, case: str) -> None:
    text, sections = READ[case]
    read = config.read_ini(ini(tmp_path, text))
    assert {name: read[name] for name in sections} == sections


@pytest.mark.parametrize(
    ("text", "line"),
    [("b=c", 1), ("[a]\nb\n", 2), ("[a]\n\n=c\n", 3), ("[]\nb=c\n", 1), ("[a\nb=c\n", 1)],
)
def test_a_line_that_is_none_is_named(
    tmp_path: Path, file: Path, model: Model, text: str, line: int
) -> None:
    path = ini(tmp_path, text)
    with pytest.raises(RuntimeError) as caught:
        model.build_from_file(str(file), ModelType.MINDIR, config_path=path)
    assert str(caught.value).startswith(f"load configuration failed! Error is {path}, line {line}:")
    assert isinstance(caught.value.__cause__, SettingsError)


@pytest.mark.parametrize("what", ["folder", "no text"])
def test_a_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, file: Path, model: Model, what: str
) -> None:
    path = tmp_path / "config"
    path.mkdir() if what == "folder" else path.write_bytes(b"[a]\nb=\xff")
    with pytest.raises(RuntimeError, match="load configuration failed! Error is "):
        model.build_from_file(str(file), ModelType.MINDIR, config_path=str(path))


# --- what it means -----------------------------------------------------------------------------

MEANS: dict[str, tuple[Sections, BuildConfig]] = {
    "nothing": ({}, BuildConfig()),
    "what is not ours": ({"acl_build_options": {"input_format": "ND"}}, BuildConfig()),
    "a list": ({"ascend_context": {PIDS: "1, 2,3"}}, BuildConfig(pids=(1, 2, 3))),
    "a list with a comma at its end": ({"ascend_context": {PIDS: "7,"}}, BuildConfig(pids=(7,))),
    "a list with itself in it": ({"ascend_context": {PIDS: "0, 5, 5"}}, BuildConfig(pids=(5,))),
    "a list of nobody": ({"ascend_context": {PIDS: "0"}}, BuildConfig(pids=())),
    "quotes": ({"ascend_context": {PIDS: '"1, 2"'}}, BuildConfig(pids=(1, 2))),
    "a handle": ({"ascend_context": {HANDLE: "42"}}, BuildConfig(handle=42)),
    "a large handle": ({"cpu_context": {HANDLE: str(2**64 - 1)}}, BuildConfig(handle=2**64 - 1)),
    "a handle through an int64": ({"cpu_context": {HANDLE: "-1"}}, BuildConfig(handle=2**64 - 1)),
    "other sections": ({"gpu_context": {PIDS: "1"}, "x": {PIDS: "2"}}, BuildConfig(pids=(1,))),
    "the tutorial's words": ({"weightd": {"pids": "1, 2"}}, BuildConfig(pids=(1, 2))),
    "the tutorial's other word": ({"weightd": {"shared_mem_handle": "9"}}, BuildConfig(handle=9)),
    "the same twice": (
        {"ascend_context": {PIDS: "1"}, "weightd": {"pids": "1"}},
        BuildConfig(pids=(1,)),
    ),
    "shapes": (
        {"acl_build_options": {"input_shape": '"x:1,-1"', "ge.dynamicDims": '"4;8"'}},
        BuildConfig(shapes={"input_shape": "x:1,-1", "dynamic_dims": "4;8"}),
    ),
    "weightd's own": (
        {"weightd": {"daemon": "never", "engine": "plain"}},
        BuildConfig(daemon="never", engine="plain"),
    ),
}


@pytest.mark.parametrize("case", MEANS)
def test_a_configuration_means_what_it_says(case: str) -> None:
    sections, meaning = MEANS[case]
    assert config.parse(sections) == meaning


REFUSED: dict[str, tuple[Sections, str]] = {
    "no PIDs": ({"ascend_context": {PIDS: "all"}}, "write PIDs with commas"),
    "PIDs with gaps": ({"ascend_context": {PIDS: "1 2"}}, "write PIDs with commas"),
    "an empty list": ({"ascend_context": {PIDS: ""}}, "write PIDs with commas"),
    "a negative PID": ({"ascend_context": {PIDS: "-1"}}, "write PIDs with commas"),
    "no number": ({"ascend_context": {HANDLE: "0x10"}}, "it is the decimal number"),
    "an empty handle": ({"ascend_context": {HANDLE: ""}}, "it is the decimal number"),
    "too large": ({"ascend_context": {HANDLE: str(2**64)}}, "it is the decimal number"),
    "both": ({"ascend_context": {PIDS: "1", HANDLE: "2"}}, "give one of the two"),
    "two lists": ({"ascend_context": {PIDS: "1"}, "weightd": {"pids": "2"}}, "is given twice"),
    "no list": ({"ascend_context": {LIST: "none.txt"}}, "cannot be read"),
    "a daemon": ({"weightd": {"daemon": "perhaps"}}, "it must be one of auto, required, never"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("by", ["dict", "file"])
def test_what_it_cannot_mean_is_refused_with_the_reason(
    tmp_path: Path, file: Path, model: Model, case: str, by: str
) -> None:
    sections, text = REFUSED[case]
    lines = [f"[{n}]\n" + "".join(f"{k}={v}\n" for k, v in s.items()) for n, s in sections.items()]
    arguments: dict[str, Any] = {"config_dict": sections}
    if by == "file":
        arguments = {"config_path": ini(tmp_path, "".join(lines))}
    with pytest.raises(RuntimeError) as caught:
        model.build_from_file(str(file), ModelType.MINDIR, **arguments)
    begins = "load" if by == "file" else "update"
    assert str(caught.value).startswith(f"{begins} configuration failed! Error is ")
    assert text in str(caught.value)


def test_what_weightd_has_no_use_for_is_named_once(
    tmp_path: Path, file: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    path = ini(tmp_path, "[ascend_context]\nplugin_custom_ops=All\n")
    with caplog.at_level(logging.WARNING, "weightd"):
        model.build_from_file(
            str(file), ModelType.MINDIR, config_path=path, config_dict={"graph": {"a": "b"}}
        )
    (record,) = caplog.records
    assert record.getMessage().endswith("[ascend_context] plugin_custom_ops, [graph] a")


@pytest.mark.parametrize("own", [{"engine": "plain"}, {"daemon": "required"}])
def test_what_says_nothing_of_a_private_model_is_warned_about(
    file: Path, model: Model, caplog: pytest.LogCaptureFixture, own: dict[str, str]
) -> None:
    with caplog.at_level(logging.WARNING, "weightd"):
        model.build_from_file(str(file), ModelType.MINDIR, config_dict={"weightd": own})
    (record,) = caplog.records
    assert "a model that is not shared" in record.getMessage()


# --- config_dict over the file -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("[ascend_context]\n{}=1\n", {"ascend_context": {PIDS: "2"}}),
        ("[ascend_context]\n{}=1\n", {"cpu_context": {PIDS: "2"}}),
        ("[ascend_context]\n{}=1\n", {"pids": "2"}),
        ("[weightd]\npids=1\n", {"ascend_context": {PIDS: "2"}}),
    ],
)
def test_what_the_dict_says_beats_the_file_in_whatever_section(
    tmp_path: Path, text: str, given: Any
) -> None:
    read = config.read_ini(ini(tmp_path, text.format(PIDS)))
    assert config.parse(config.merged(read, given)).pids == (2,)


def test_the_file_counts_where_the_dict_is_silent(tmp_path: Path, file: Path, model: Model) -> None:
    path = ini(tmp_path, "[acl_build_options]\ninput_shape=x:9\nge.dynamicDims=1;2\n")
    given = {"acl_build_options": {"input_shape": "x:7"}}
    model.build_from_file(str(file), ModelType.MINDIR, config_path=path, config_dict=given)
    assert model.get_model_info("input_shape") == "x:7"
    assert model.get_model_info("dynamic_dims") == "1;2"
    assert given == {"acl_build_options": {"input_shape": "x:7"}}


def test_the_dict_of_a_script_may_lack_the_section_of_its_file(
    tmp_path: Path, file: Path, model: Model
) -> None:
    """Upstream has a KeyError here."""
    (tmp_path / "names").write_text("w\n")
    path = ini(tmp_path, f"[ascend_context]\n{LIST}={tmp_path / 'names'}\n")
    model.build_from_file(
        str(file), ModelType.MINDIR, config_path=path, config_dict={"other": {"a": "b"}}
    )
    weight = Tensor(np.zeros((16, 16), np.float32))
    weight.name = "w"
    model.update_weights([[weight]])


@pytest.mark.parametrize("key", ["pids", "shared_mem_handle"])
def test_the_tutorials_keys_without_a_section_must_be_text(
    file: Path, model: Model, key: str
) -> None:
    with pytest.raises(TypeError, match="config_dict_value must be dict"):
        model.build_from_file(str(file), ModelType.MINDIR, config_dict={key: 5})


def test_the_tutorials_keys_share_a_model(file: Path, model: Model) -> None:
    model.build_from_file(
        str(file),
        ModelType.MINDIR,
        config_dict={"pids": f"{os.getpid()}", "weightd": {"daemon": "never"}},
    )
    handle = model.get_model_info("shareable_weight_mem_handle")
    with Model() as second:
        second.build_from_file(
            str(file), ModelType.MINDIR, config_dict={"shared_mem_handle": handle}
        )
        assert second.get_model_info("shareable_weight_mem_handle") == handle


# --- the list of weights -----------------------------------------------------------------------


def test_a_list_has_a_name_a_line_and_perhaps_the_models_name(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("\ufeffa\n\n  b , model.b\r\nc,\n", encoding="utf-8")
    found = config.parse({"ascend_context": {LIST: str(tmp_path / "names")}})
    assert found.variables == {"a": "a", "b": "model.b", "c": "c"}


def test_a_list_lies_where_the_process_is_or_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names").write_text("beside\n")
    sections = {"ascend_context": {LIST: "names"}}
    assert config.parse(sections, folder=tmp_path).variables == {"beside": "beside"}
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "names").write_text("here\n")
    monkeypatch.chdir(tmp_path / "here")
    assert config.parse(sections, folder=tmp_path).variables == {"here": "here"}


@pytest.mark.parametrize("text", ["", "\n \n", ",w\n", "w\nw,v\n"])
def test_a_list_that_names_nothing_or_one_name_twice_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text)
    with pytest.raises(SettingsError, match="variable_weights_file"):
        config.parse({"ascend_context": {LIST: str(tmp_path / "names")}})


def test_a_name_that_the_model_does_not_have_is_refused_at_once(
    tmp_path: Path, file: Path, model: Model
) -> None:
    (tmp_path / "names").write_text("w\nnone\n")
    with pytest.raises(RuntimeError, match=r"build_from_file failed! Error is .*'none'"):
        model.build_from_file(
            str(file),
            ModelType.MINDIR,
            config_dict={"ascend_context": {LIST: str(tmp_path / "names")}},
        )


# --- anything ----------------------------------------------------------------------------------

words = st.sampled_from(
    ["ascend_context", "weightd", PIDS, HANDLE, "pids", "daemon", "input_shape", "0", "never", ""]
)
some = words | st.text(max_size=4) | st.integers() | st.none() | st.binary(max_size=2)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(words | st.integers(), some | st.dictionaries(some, some, max_size=3)))
def test_whatever_comes_it_is_a_configuration_or_refused_in_one_of_three_ways(given: Any) -> None:
    with Model() as model:
        with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
            model.build_from_file("/dev/null", ModelType.MINDIR, config_dict=given)
        assert type(caught.value) in (TypeError, ValueError, RuntimeError)
