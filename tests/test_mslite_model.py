"""Model by MindSpore Lite's contract: its signatures, how it is built, and how it is closed."""

import inspect
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import weightd as mslite
from tests.daemons import LENET
from tests.nets import dense, model, port, saved
from weightd import Context, Model, ModelType, Tensor
from weightd.errors import BadFileError, UsageError

pytestmark = pytest.mark.usefixtures("own_runtime")

MINDIR = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"
ONES = np.ones((1, 4), np.float32)
Arguments = dict[str, Any]


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


def test_threads_that_do_everything_at_once_are_answered_or_refused(tmp_path: Path) -> None:
    ports = {"inputs": [port("a", ["n", 4])], "outputs": [port("b", ["n", 4])]}
    scaling = model([onnx.helper.make_node("Mul", ["a", "w"], ["b"])], {"w": ONES}, **ports)
    paths = [saved(dense(), tmp_path / "one"), saved(scaling, tmp_path / "other")]
    (tmp_path / "names").write_text("w\n")
    settings = {"ascend_context": {"variable_weights_file": str(tmp_path / "names")}}
    weight = Tensor(ONES)
    weight.name = "w"
    shared = Model()

    def resized(number: int) -> None:
        inputs = shared.get_inputs()
        shared.resize(inputs, [[number, 16]] * len(inputs))

    calls: list[Callable[[int], object]] = [
        lambda n: shared.build_from_file(str(paths[n % 2]), ModelType.MINDIR, config_dict=settings),
        lambda n: shared.predict([np.zeros((n, 16), np.float32)]),
        lambda n: shared.predict([Tensor(np.zeros((n, 4), np.float32))]),
        resized,
        lambda _: shared.update_weights([[weight]]),
        lambda _: [shared.get_outputs(), shared.get_model_info("input_shape")],
        lambda _: shared.close(),
    ]
    faults: list[BaseException] = []

    def call(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(150):
            try:
                chance.choice(calls)(chance.randrange(1, 4))
            except (TypeError, ValueError, RuntimeError):
                continue
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                faults.append(error)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.close()
    assert not faults


def targets() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the listing's own
            continue
    return found


def test_a_model_that_was_not_built_yet_is_built_in_a_forked_child(file: Path) -> None:
    with Model() as unbuilt, unbuilt._building:  # another thread of the parent's builds it now
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            unbuilt.build_from_file(str(file), ModelType.MINDIR)
            os._exit(len(unbuilt.predict([Tensor(np.ones((1, 16), np.float32))])))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
