"""Model by MindSpore Lite's contract: its signatures, how it is built, and what it tells."""

import inspect
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import weightd as mslite
from tests.daemons import LENET
from tests.nets import dense, model, port, saved
from weightd import Context, DataType, Format, Model, ModelType, Tensor, TensorMeta
from weightd.errors import BadFileError, UsageError

MINDIR = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"
Arguments = dict[str, Any]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTD_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(), tmp_path / "model.mindir")


@pytest.fixture
def built(file: Path) -> Iterator[Model]:
    with Model() as built:
        built.build_from_file(str(file), ModelType.MINDIR)
        yield built


# --- signatures ------------------------------------------------------------------------------

SIGNATURES: dict[str, dict[str, object]] = {
    "build_from_file": {
        "model_path": inspect.Parameter.empty,
        "model_type": inspect.Parameter.empty,
        "context": None,
        "config_path": "",
        "config_dict": None,
        "dec_key": None,
        "dec_mode": "AES-GCM",
        "dec_num_parallel": 0,
    },
    "predict": {"inputs": inspect.Parameter.empty, "outputs": None},
    "resize": {"inputs": inspect.Parameter.empty, "dims": inspect.Parameter.empty},
    "update_weights": {"weights": inspect.Parameter.empty},
    "get_inputs": {},
    "get_outputs": {},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_takes_what_upstreams_takes_by_place_and_by_name(name: str) -> None:
    parameters = inspect.signature(getattr(Model(), name)).parameters
    assert {each.name: each.default for each in parameters.values()} == SIGNATURES[name]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())


def test_the_kinds_of_models_have_upstreams_numbers() -> None:
    assert {kind.name: kind.value for kind in ModelType} == {"MINDIR": 0, "MINDIR_LITE": 4}


def test_a_model_says_its_path(file: Path) -> None:
    with Model() as model:
        assert str(model) == "model_path: ."
        model.build_from_file(str(file), ModelType.MINDIR)
        assert str(model) == f"model_path: {file}."


# --- what is wrong with a build ----------------------------------------------------------------


def files(folder: Path) -> dict[str, str]:
    """Files by what they are; each by its path."""
    (folder / "text.mindir").write_text("no model")
    (folder / "broken.ini").write_text("no section\n")
    return {
        "model": str(saved(dense(), folder / "m.mindir")),
        "none": str(folder / "none"),
        "text": str(folder / "text.mindir"),
        "broken": str(folder / "broken.ini"),
    }


# In the order in which they are found. A value in <> is the path of one of the files.
FAULTS: list[tuple[Arguments, type[Exception], str]] = [
    ({"model_path": 1}, TypeError, "model_path must be str, but got <class 'int'>."),
    ({"model_type": "MINDIR"}, TypeError, "model_type must be ModelType, but got"),
    ({"context": Context().cpu}, TypeError, "context must be Context, but got"),
    ({"config_path": 1}, TypeError, "config_path must be str, but got"),
    (
        {"model_path": "<none>"},
        RuntimeError,
        "build_from_file failed, model_path does not exist!",
    ),
    (
        {"config_path": "<none>"},
        RuntimeError,
        "build_from_file failed, config_path does not exist!",
    ),
    ({"config_path": "<broken>"}, RuntimeError, "load configuration failed! Error is "),
    ({"config_dict": 1}, TypeError, "config_dict must be dict, but got"),
    ({"config_dict": {5: {"a": "b"}}}, TypeError, "config_dict_key must be str, but got"),
    ({"config_dict": {"a": "b"}}, TypeError, "config_dict_value must be dict, but got"),
    ({"config_dict": {"a": {3: "b"}}}, TypeError, "config_dict_value_key must be str, but"),
    ({"config_dict": {"a": {"b": 2}}}, TypeError, "config_dict_value_value must be str, but"),
    (
        {"config_dict": {"ascend_context": {"shareable_weight_pid_list": "all"}}},
        RuntimeError,
        "update configuration failed! Error is ",
    ),
    ({"dec_key": "key"}, TypeError, "dec_key must be bytes, but got"),
    ({"dec_key": b"key", "dec_mode": 1}, TypeError, "dec_mode must be str, but got"),
    (
        {"dec_key": b"key", "dec_num_parallel": "1"},
        TypeError,
        "dec_num_parallel must be int, but got",
    ),
    ({"dec_key": b"key", "dec_mode": ""}, ValueError, "dec_mode must not be empty string!"),
    ({"model_path": "<text>"}, RuntimeError, "build_from_file failed! Error is "),
]
NAMES = [f"{n:02} {text[:45]}" for n, (_, _, text) in enumerate(FAULTS)]


def filled(arguments: Arguments, paths: dict[str, str]) -> Arguments:
    return {
        name: paths[value[1:-1]] if isinstance(value, str) and value.startswith("<") else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=NAMES)
def test_each_fault_of_a_build_has_upstreams_exception(number: int, tmp_path: Path) -> None:
    fault, kind, text = FAULTS[number]
    right = {"model_path": "<model>", "model_type": ModelType.MINDIR}
    with Model() as model, pytest.raises(kind) as caught:
        model.build_from_file(**filled(right | fault, files(tmp_path)))
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=NAMES)
def test_of_several_faults_upstreams_first_is_told(number: int, tmp_path: Path) -> None:
    _, kind, text = FAULTS[number]
    arguments: Arguments = {"model_path": "<model>", "model_type": ModelType.MINDIR}
    for fault, _, _ in reversed(FAULTS[number:]):
        arguments |= fault
    with Model() as model, pytest.raises(kind) as caught:
        model.build_from_file(**filled(arguments, files(tmp_path)))
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("nothing", [None, b"", ""])
def test_without_a_key_nothing_is_decrypted_and_the_rest_is_not_looked_at(
    file: Path, nothing: Any
) -> None:
    with Model() as model:
        model.build_from_file(
            str(file), ModelType.MINDIR, dec_key=nothing, dec_mode="", dec_num_parallel=-1
        )


def test_an_encrypted_model_is_refused_and_not_read_as_a_plain_one(file: Path) -> None:
    with Model() as model, pytest.raises(RuntimeError, match="no encrypted models"):
        model.build_from_file(str(file), ModelType.MINDIR, dec_key=b"key")


@pytest.mark.parametrize("nothing", [None, {}])
def test_an_empty_configuration_is_none(file: Path, nothing: Any) -> None:
    with Model() as model:
        model.build_from_file(str(file), ModelType.MINDIR, None, "", nothing)


def test_a_model_is_built_once(built: Model, file: Path) -> None:
    with pytest.raises(RuntimeError, match=r"build_from_file failed! Error is .*called Build!"):
        built.build_from_file(str(file), ModelType.MINDIR)
    assert built.predict([Tensor(np.zeros((1, 16), np.float32))])


def test_after_a_build_that_failed_another_may_succeed(tmp_path: Path) -> None:
    paths = files(tmp_path)
    with Model() as model:
        with pytest.raises(RuntimeError):
            model.build_from_file(paths["text"], ModelType.MINDIR)
        assert model.get_inputs() == []
        model.build_from_file(paths["model"], ModelType.MINDIR)
        assert model.get_inputs()


def test_the_cause_of_a_runtime_error_is_weightds_own(tmp_path: Path) -> None:
    with Model() as model:
        with pytest.raises(RuntimeError) as caught:
            model.build_from_file(files(tmp_path)["text"], ModelType.MINDIR)
        assert isinstance(caught.value.__cause__, BadFileError)
        with pytest.raises(RuntimeError) as caught:
            model.update_weights([[]])
        assert isinstance(caught.value.__cause__, UsageError)


@pytest.mark.parametrize("what", ["folder", "fifo", "unreadable name"])
def test_a_path_that_is_no_file_is_an_error_and_never_waits(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.mindir"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    text = str(path) + ("\0" if what == "unreadable name" else "")
    with Model() as model, pytest.raises(RuntimeError, match="build_from_file failed"):
        model.build_from_file(text, ModelType.MINDIR)


@pytest.mark.parametrize("kind", ModelType)
@pytest.mark.parametrize("path", [MINDIR, LENET])
def test_what_a_file_is_is_seen_in_it_and_not_in_its_type(kind: ModelType, path: Path) -> None:
    with Model() as model:
        model.build_from_file(str(path), kind)
        assert [tensor.shape for tensor in model.get_inputs()] == [[1, 1, 32, 32]]


def test_of_two_builds_at_once_one_succeeds(file: Path) -> None:
    with Model() as model:
        start, faults = threading.Barrier(4), []

        def build() -> None:
            start.wait()
            try:
                model.build_from_file(str(file), ModelType.MINDIR)
            except RuntimeError as error:
                faults.append(str(error))

        threads = [threading.Thread(target=build) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(faults) == 3
        assert all("called Build!" in fault for fault in faults)


# --- inputs and outputs ------------------------------------------------------------------------


def test_before_it_is_built_a_model_has_no_inputs_and_outputs() -> None:
    assert Model().get_inputs() == []
    assert Model().get_outputs() == ()


def test_inputs_are_tensors_without_data(built: Model) -> None:
    (tensor,) = built.get_inputs()
    assert isinstance(tensor, Tensor)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("x", [-1, 16], DataType.FLOAT32)
    assert (tensor.element_num, tensor.data_size) == (0, 0)
    assert tensor.format is Format.NCHW


def test_each_call_gives_inputs_of_its_own(built: Model) -> None:
    built.get_inputs()[0].shape = [3, 16]
    assert built.get_inputs()[0].shape == [-1, 16]


def test_outputs_are_a_tuple_of_descriptions(built: Model) -> None:
    outputs = built.get_outputs()
    assert isinstance(outputs, tuple)
    (meta,) = outputs
    assert isinstance(meta, TensorMeta)
    assert (meta.name, meta.shape, meta.dtype) == ("y", [-1, 16], DataType.FLOAT32)


def test_a_fixed_output_says_its_size() -> None:
    with Model() as model:
        model.build_from_file(str(MINDIR), ModelType.MINDIR)
        (meta,) = model.get_outputs()
    assert (meta.shape, meta.element_num, meta.data_size) == ([1, 10], 10, 40)


# --- what there is to know -----------------------------------------------------------------------


@pytest.mark.parametrize("key", [1, None, b"input_shape"])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match="key must be str"):
        Model().get_model_info(key)


def test_a_key_that_was_forgotten_is_refused_in_the_same_words() -> None:
    with pytest.raises(TypeError, match="key must be str"):
        Model().get_model_info()


@pytest.mark.parametrize(
    "key", ["input_shape", "user_info", "shareable_weight_mem_handle", "", "?"]
)
def test_what_is_not_known_is_an_empty_text_and_a_warning(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Model().get_model_info(key) == ""
    assert caplog.records


def test_a_private_model_has_no_handle(built: Model) -> None:
    assert built.get_model_info("shareable_weight_mem_handle") == ""
    assert built.get_model_info("dynamic_dims") == ""


def test_the_input_shapes_are_text(built: Model) -> None:
    assert built.get_model_info("input_shape") == "x:-1,16"
    with Model() as model:
        model.build_from_file(str(MINDIR), ModelType.MINDIR)
        assert model.get_model_info("input_shape") == "x:1,1,32,32"


def test_several_inputs_stand_one_after_the_other(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    ports = {"inputs": [port("a", [1]), port("b", ["n", 2])], "outputs": [port("c", ["n", 2])]}
    with Model() as built:
        built.build_from_file(str(saved(model([node], **ports), tmp_path / "m")), ModelType.MINDIR)
        assert built.get_model_info("input_shape") == "a:1;b:-1,2"


def test_the_own_pid_is_told_before_a_build_and_after(built: Model) -> None:
    assert Model().get_model_info("current_pid") == str(os.getpid())
    assert built.get_model_info("current_pid") == str(os.getpid())


def test_what_the_maker_noted_is_told(tmp_path: Path) -> None:
    net = dense()
    net.metadata_props.add(key="author", value="somebody")
    net.metadata_props.add(key="task", value="digits")
    with Model() as model:
        model.build_from_file(str(saved(net, tmp_path / "m.onnx")), ModelType.MINDIR)
        assert model.get_model_info("user_info").endswith("author: somebody\ntask: digits")


def test_the_notes_of_a_file_that_went_are_an_empty_text(built: Model, file: Path) -> None:
    file.unlink()
    assert built.get_model_info("user_info") == ""


# --- closing ---------------------------------------------------------------------------------


def test_a_closed_model_is_as_one_that_was_never_built(built: Model, file: Path) -> None:
    built.close()
    built.close()
    assert built.get_inputs() == []
    assert built.get_outputs() == ()
    assert built.get_model_info("input_shape") == ""
    built.build_from_file(str(file), ModelType.MINDIR)
    assert built.predict([Tensor(np.zeros((1, 16), np.float32))])


def test_a_model_that_nobody_has_any_more_closes_its_file(file: Path) -> None:
    model = mslite.Model()
    model.build_from_file(str(file), ModelType.MINDIR)
    assert str(file) in targets()
    del model
    assert str(file) not in targets()


def targets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the listing's own
            continue
    return found
