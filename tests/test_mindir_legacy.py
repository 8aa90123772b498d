"""MindIR of MindSpore 1 and of other versions than the one that made most of the test data."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.legacy import downgraded
from tests.mindir import opened, private_session
from tests.test_mindir_ops import CASES, DATA, check_answers
from weightd.errors import BadFileError, UnsupportedModelError
from weightd.weights.mindir.graph import Model, parsed_model
from weightd.weights.mindir.legacy import constant_of, type_of
from weightd.weights.mindir.legacy_names import operator_of
from weightd.weights.mindir.ops.table import OPS
from weightd.weights.mindir.proto import BOOL, Monad, Opaque, TensorType
from weightd.weights.mindir.schema import parse
from weightd.weights.mindir.source import MindirSource

VERSIONS = DATA.parent / "mindir_versions"
LENET = DATA.parent / "lenet5" / "lenet5.mindir"
FLOAT, INT64, STRING, UINT64, TENSORS = 1, 7, 8, 13, 19

# Operators of MindSpore 1 that meant something else: see legacy_names.py.
CHANGED = {"lstm", "lstm_bidirectional", "lstm_two_layers", "lstm_without_bias", "tagger"}
CHANGED |= {"language_model_of_open_sizes"}
# What MindSpore 1 cannot say: gathers by batch, and that a number of sizes has a fraction.
CHANGED |= {"each_by_its_own", "numbers_of_sizes"}


def graph_of(path: Path) -> bytes | str:
    """The translated graph; or why there is none, without the file's name and version."""
    try:
        with opened(path) as source:
            assert source.graph is not None
            return source.graph
    except UnsupportedModelError as error:
        return str(error).partition("cannot be translated")[2]


@pytest.mark.parametrize("case", [case for case in CASES if Path(case).name not in CHANGED])
def test_a_file_of_mindspore_1_says_the_same_as_todays(tmp_path: Path, case: str) -> None:
    file = DATA / f"{case}.mindir"
    old = tmp_path / file.name
    old.write_bytes(downgraded(file.read_bytes()))
    assert graph_of(old) == graph_of(file)


def test_lenet_of_mindspore_1_has_the_same_weights_and_answers(tmp_path: Path) -> None:
    model = parse("ModelProto", downgraded(LENET.read_bytes()), "lenet")
    for parameter in model.graph.parameter:
        parameter.ClearField("ref_key")  # since 1.6
    old = tmp_path / "old.mindir"
    old.write_bytes(model.SerializeToString())
    with opened(old) as source, opened(LENET) as new:
        assert source.tensors == new.tensors
        assert source.said().producer == "MindSpore 1.5.0"
    x = np.random.default_rng(0).standard_normal((1, 1, 32, 32), np.float32)
    (found,), (wanted,) = (private_session(path).run([x]) for path in (old, LENET))
    assert found.tobytes() == wanted.tobytes()


def test_a_quotient_that_mindspore_1_declares_whole_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old.mindir"
    old.write_bytes(downgraded((DATA / "dynamic" / "numbers_of_sizes.mindir").read_bytes()))
    with pytest.raises(UnsupportedModelError, match="gives float32; the file says int64"):
        opened(old)


def test_an_lstm_of_mindspore_1_is_refused_since_its_weights_lie_otherwise(tmp_path: Path) -> None:
    old = tmp_path / "old.mindir"
    old.write_bytes(downgraded((DATA / "recurrent" / "lstm.mindir").read_bytes()))
    with pytest.raises(UnsupportedModelError, match=r"\(MindSpore 1\.5\.0\).*LSTM of MindSpore 1"):
        opened(old)


# --- real files --------------------------------------------------------------------------

OTHERS = sorted(path.relative_to(VERSIONS).as_posix() for path in VERSIONS.glob("*/*/*.mindir"))
ORIGINALS = {
    "1.5.0/OneHot_bprop": r"hyper_map\[zeros_like_leaf\]",
    "1.6.0/Switch_bprop": r"hyper_map\[zeros_like_leaf\]",
    "1.6.0/ReLUV2_bprop": "getitem",
}


def test_there_are_files_of_other_versions() -> None:
    assert len(OTHERS) > 5


@pytest.mark.parametrize("file", OTHERS)
def test_a_file_of_another_version_gives_what_that_version_gave(file: str) -> None:
    check_answers(VERSIONS / file)


def model_of(name: str) -> Model:
    path = VERSIONS / f"{name}.mindir"
    return parsed_model(parse("ModelProto", path.read_bytes(), name), name)


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_file_that_mindspore_1_wrote_is_read(name: str) -> None:
    model = model_of(name)
    assert (model.producer, model.version) == ("MindSpore", name.partition("/")[0])
    assert [node.op for node in model.main.nodes][-1] == "MakeTuple"
    with opened(VERSIONS / f"{name}.mindir", weights_only=True) as source:
        assert isinstance(source, MindirSource)
        assert not source.tensors


def test_the_attributes_and_constants_of_a_real_file_are_read() -> None:
    model = model_of("1.6.0/ReLUV2_bprop")
    assert model.constants == {"[ValueNode]22": 0, "[ValueNode]24": 1}
    (gradient,) = (node for node in model.main.nodes if node.op == "ReluGradV2")
    assert gradient.attributes == {
        "input_names": ("gradients", "mask"),
        "output_names": ("output",),
    }


@pytest.mark.parametrize(("name", "operator"), ORIGINALS.items())
def test_a_file_without_declared_inputs_is_refused_and_names_its_version(
    tmp_path: Path, name: str, operator: str
) -> None:
    file = VERSIONS / f"{name}.mindir"
    with pytest.raises(UnsupportedModelError, match=r"\(MindSpore 1\.\d\.0\).*export"):
        opened(file)
    model = parse("ModelProto", file.read_bytes(), name)
    for value in model.graph.input:
        value.tensor.add(dims=[2], data_type=FLOAT)
    declared = tmp_path / "declared.mindir"
    declared.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=rf"{operator} at .* is not translated.*export"):
        opened(declared)


def test_mindir_of_mindspore_1_0_is_told_as_such(tmp_path: Path) -> None:
    """ONNX's messages, MindSpore's operators, no operator set."""
    x, y = (onnx.helper.make_tensor_value_info(name, FLOAT, [3]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("ReLU", ["x"], ["y"])], "net", [x], [y])
    model = onnx.ModelProto(ir_version=4, producer_name="MindSpore", model_version=1, graph=graph)
    path = tmp_path / "net.mindir"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"MindSpore 1\.0 or older.*export"):
        opened(path)


# --- names -------------------------------------------------------------------------------


def edited(case: str, tmp_path: Path, edit: Callable[[Any], object], *, is_old: bool) -> Path:
    """A copy of a case after an edit of its model."""
    file = DATA / f"{case}.mindir"
    raw = file.read_bytes()
    model = parse("ModelProto", downgraded(raw) if is_old else raw, case)
    edit(model)
    path = tmp_path / file.name
    path.write_bytes(model.SerializeToString())
    shutil.copy(file.with_suffix(".npz"), tmp_path)
    return path


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("ControlDepend", "Depend"),
        ("ScalarToArray", "ScalarToTensor"),
        ("list_getitem", "ListGetItem"),
        ("stop_gradient", "StopGradient"),
        ("S-Prim-tuple_len", "sequence_len"),
    ],
)
def test_a_rare_old_name_leads_to_an_operator_that_is_translated(old: str, today: str) -> None:
    assert operator_of(old) == today
    assert today in OPS


def test_a_format_is_heeded_by_whichever_name_it_has(tmp_path: Path) -> None:
    def turn(model: Any) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == b"BiasAdd" and attribute.name == b"format":
                    attribute.s = b"NHWC"

    with pytest.raises(UnsupportedModelError, match=r"BiasAdd at .*only channels on axis 1"):
        private_session(edited("linear/layers", tmp_path, turn, is_old=True))


def test_a_shape_that_is_an_attribute_is_not_taken_for_the_declared_one(tmp_path: Path) -> None:
    """BroadcastTo of MindSpore 2.0."""

    moved = []

    def move(model: Any) -> None:
        constants = {
            node.output[0]: node.attribute[0]
            for node in model.graph.node
            if node.op_type == b"Constant"
        }
        for number, node in enumerate(model.graph.node):
            if node.op_type.startswith(b"REF::BroadcastTo") and node.input[1] in constants:
                moved.append(node.output[0])
                node.op_type = f"REF::moved:{number}".encode()
                own = model.primitives.add(name=node.op_type[5:], op_type=b"BroadcastTo")
                own.attribute.add().CopyFrom(constants[node.input[1]])
                own.attribute[0].name = b"shape"
                del node.input[1:]

    path = edited("reshaping/repeats", tmp_path, move, is_old=False)
    assert moved
    check_answers(path)


def test_an_lstm_with_the_weights_of_a_gpu_is_refused(tmp_path: Path) -> None:
    def drop(model: Any) -> None:
        for primitive in model.primitives:
            for attribute in primitive.attribute:
                if primitive.op_type == b"LSTM" and attribute.name == b"has_bias":
                    attribute.i = 0

    path = edited("recurrent/lstm", tmp_path, drop, is_old=False)
    with pytest.raises(UnsupportedModelError, match=r"LSTM at .*a CPU's would have.*export"):
        opened(path)


# --- forms -------------------------------------------------------------------------------


def attribute_of(form: str, **fields: Any) -> Any:
    made = parse("AttributeProto", b"", "it")
    made.ref_attr_name = form.encode()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("form", "fields", "wanted"),
    [
        ("scalar:value0", {"type": INT64, "i": -5}, -5),
        ("scalar:value0", {"type": STRING, "s": b"same"}, "same"),
        ("scalar:value0", {"type": FLOAT, "f": 0.5}, 0.5),
        ("scalar:value0", {"type": 11, "d": 0.1}, 0.1),
        ("scalar:value0", {"type": BOOL, "i": 1}, True),
        ("scalar:Tuple[],", {"type": TENSORS}, ()),
        ("scalar:Tuple[value1,],", {"type": INT64, "ints": [3]}, (3,)),
        ("scalar:Tuple[value1,value2,],", {"type": INT64, "ints": [3, 4]}, (3, 4)),
        ("scalar:List[value1,value2,],", {"type": STRING, "strings": [b"x", b"w"]}, ("x", "w")),
        ("scalar:Tuple[value1,],", {"type": FLOAT, "floats": [0.5]}, (0.5,)),
        ("scalar:Tuple[value1,],", {"type": BOOL, "ints": [1]}, (True,)),
        ("scalar:Tuple[value1,value2,],", {"type": BOOL, "ints": [2, 1]}, (2, 1)),
        (
            "scalar:Tuple[Tuple[value1,value2,],value3,Tuple[],Tuple[Tuple[value4,],],],",
            {"type": INT64, "ints": [1, 2, 3, 4]},
            ((1, 2), 3, (), ((4,),)),
        ),
        ("Monad:UMonad", {}, Monad()),
        ("Monad:IOMonad", {}, Monad()),
        ("none", {}, None),
        # Not known, which matters only to whoever uses it.
        ("scalar:value0", {"type": 77}, Opaque(77)),
        ("scalar:Dict[value1,],", {"type": INT64, "ints": [1]}, Opaque("scalar:Dict[value1,],")),
        ("Functor:f", {}, Opaque("Functor:f")),
        (
            "scalar:Tuple[value1,value2,],",
            {"type": FLOAT, "ints": [1], "floats": [0.5]},
            Opaque("a tuple of numbers and other things"),
        ),
    ],
)
def test_every_form_of_a_constant_is_read(form: str, fields: dict[str, Any], wanted: Any) -> None:
    found = constant_of(attribute_of(form, **fields), "it")
    assert found == wanted
    assert type(found) is type(wanted)


def test_tensors_and_dtypes_are_read() -> None:
    three: dict[str, Any] = {"dims": [3], "data_type": 3, "raw_data": b"\1\2\3"}
    made = attribute_of("tensor:value0")
    made.tensors.add(**three)
    found = constant_of(made, "it")
    assert isinstance(found, np.ndarray)
    assert (found.dtype.name, found.tolist()) == ("int8", [1, 2, 3])
    made = attribute_of("type:value0")
    made.tensors.add(data_type=10)
    assert constant_of(made, "it") == TensorType("float16", ())
    made = attribute_of("scalar:Tuple[value1,value2,],", type=TENSORS)
    made.tensors.add(**three)
    made.tensors.add(data_type=6)
    parts = constant_of(made, "it")
    assert isinstance(parts, tuple)
    assert isinstance(parts[0], np.ndarray)
    assert (parts[0].tolist(), parts[1]) == ([1, 2, 3], TensorType("int32", ()))


@pytest.mark.parametrize(
    ("form", "fields", "message"),
    [
        ("scalar:Tuple[value1,value2,],", {"ints": [3]}, "names 'value2' and has 1 parts"),
        ("scalar:Tuple[value1,],", {"ints": [3, 4]}, "more than its tuple names"),
        ("scalar:Tuple[value2,value1,],", {"ints": [3, 4]}, "names 'value2'"),
        ("scalar:Tuple[value1,", {"ints": [3]}, "bracket too few"),
        ("scalar:Tuple[value1,],],", {"ints": [3]}, "bracket too many"),
        ("scalar:Tuple[value1", {"ints": [3]}, "breaks off"),
        ("scalar:Tuple[Tup", {"ints": [3]}, "breaks off"),
        ("scalar:Tuple[],Tuple[],", {}, "2 tuples where one belongs"),
        ("scalar:" + "Tuple[" * 9999, {}, "nests too deep"),
        ("scalar:Tuple[" + "value1," * 9999 + "],", {"ints": [1]}, "names 'value1'"),
        ("tensor:value0", {}, "'tensor:value0' with 0 tensors"),
        ("type:value0", {}, "'type:value0' with 0 tensors"),
    ],
)
def test_a_constant_that_contradicts_itself_is_refused(
    form: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadFileError, match=f"it .*{message}"):
        constant_of(attribute_of(form, type=INT64, **fields), "it")


TWO = [([2, 3], FLOAT), ([], 6)]


@pytest.mark.parametrize(
    ("form", "tensors", "wanted"),
    [
        ("shape:shape1,", TWO[:1], TensorType("float32", (2, 3))),
        ("shape:Tuple[shape1,],", TWO[:1], (TensorType("float32", (2, 3)),)),
        (
            "shape:Tuple[Tuple[shape1,UMonad,],shape2,],",
            TWO,
            ((TensorType("float32", (2, 3)), None), TensorType("int32", ())),
        ),
        ("shape:shape1,", [([1], UINT64)], TensorType("int64", ())),
        ("shape:shape1,", [([2], UINT64)], TensorType("uint64", (2,))),
        ("shape:UMonad,", [], None),
        ("shape:Func,", [], None),
        ("shape:", [], None),
    ],
)
def test_declared_types_are_read(form: str, tensors: list[Any], wanted: Any) -> None:
    assert type_of(declaring(form, tensors), "it") == wanted


def declaring(form: str, tensors: list[Any]) -> Any:
    made = attribute_of(form)
    for number, (dims, dtype) in enumerate(tensors, 1):
        made.tensors.add(dims=dims, data_type=dtype, name=f"shape{number}".encode())
    return made


def test_an_input_that_is_a_tuple_declares_its_types_as_well() -> None:
    model = parse("ModelProto", downgraded(LENET.read_bytes()), "lenet")
    (value,) = model.graph.input
    value.ClearField("tensor")
    value.attr_info.CopyFrom(declaring("shape:Tuple[shape1,shape2,],", TWO))
    ((name, type_),) = parsed_model(model, "lenet").main.inputs
    assert name.endswith(":x")
    assert type_ == (TensorType("float32", (2, 3)), TensorType("int32", ()))


def test_a_bool_is_declared_by_the_attribute_itself() -> None:
    made = attribute_of("shape:", type=BOOL)
    assert type_of(made, "it") == TensorType("bool", ())
    made = declaring("shape:Tuple[shape1,],", TWO[:1])
    made.type = BOOL  # one of its parts is a bool, and nothing says which
    assert type_of(made, "it") is None


@pytest.mark.parametrize("form", ["shape:shape2,", "shape:Tuple[shape1,", "shape:shape1"])
def test_a_declared_type_that_contradicts_itself_is_refused(form: str) -> None:
    with pytest.raises(BadFileError, match=r"names 'shape2'|bracket too few|breaks off"):
        type_of(declaring(form, TWO[:1]), "it")


def test_a_form_that_is_not_known_matters_only_where_it_is_used(tmp_path: Path) -> None:
    def spoil(model: Any, operator: bytes, name: bytes) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == operator and attribute.name == name:
                    attribute.ref_attr_name = b"riddle:value0"

    path = edited("pool/max", tmp_path, lambda m: spoil(m, b"MaxPool", b"input_names"), is_old=True)
    check_answers(path)
    path = edited("pool/max", tmp_path, lambda m: spoil(m, b"MaxPool", b"strides"), is_old=True)
    message = r"\(MindSpore 1\.5\.0\).*MaxPool at .*strides is of kind riddle:value0.*export"
    with pytest.raises(UnsupportedModelError, match=message):
        opened(path)
    with opened(path, weights_only=True):
        pass
