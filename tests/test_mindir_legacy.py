"""The dialect of MindSpore 1.x: today's files, written as it wrote them, say the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.legacy import downgraded
from tests.mindir import opened, private_session
from weightd.errors import UnsupportedModelError
from weightd.weights.mindir.legacy import constant_of, type_of
from weightd.weights.mindir.proto import Monad, TensorType
from weightd.weights.mindir.schema import parse

DATA = Path(__file__).parent / "data"
CASES = [
    "conv/conv2d_same",
    "conv/conv2d_asymmetric_pad_dilated_grouped",
    "pool/max",
    "norm/batch_2d",
    "norm/layer",
    "linear/layers",
    "reduction/sums",
    "reshaping/reshapes",
    "reshaping/pads",
    "indexing/slices",
    "flow/if_with_parameters",
    "flow/if_with_two_results",
    "flow/several_outputs",
    "vision/resnet",
    "vision/gan_generator",
    "sequence/encoder",
    "recurrent/lstm",
]


def test_lenet_of_mindspore_1_answers_as_it_does_today(tmp_path: Path) -> None:
    file = DATA / "lenet5" / "lenet5.mindir"
    path = tmp_path / "lenet5.mindir"
    path.write_bytes(downgraded(file.read_bytes()))
    with opened(path) as old, opened(file) as new:
        assert old.tensors == new.tensors
        assert old.graph == new.graph


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_mindspore_1_gives_what_mindspore_gives(tmp_path: Path, case: str) -> None:
    file = DATA / "mindir" / f"{case}.mindir"
    path = tmp_path / "old.mindir"
    path.write_bytes(downgraded(file.read_bytes()))
    with np.load(file.with_suffix(".npz")) as kept:
        inputs = [kept[f"0/in/{i}"] for i in range(9) if f"0/in/{i}" in kept]
    found, wanted = private_session(path).run(inputs), private_session(file).run(inputs)
    assert [a.tobytes() for a in found] == [a.tobytes() for a in wanted]


def attribute(text: bytes, **fields: Any) -> Any:
    made = parse("AttributeProto", b"", "made")
    made.ref_attr_name = text
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("text", "fields", "wanted"),
    [
        (b"scalar:value0", {"type": 7, "i": 5}, 5),
        (b"scalar:value0", {"type": 8, "s": b"same"}, "same"),
        (b"scalar:value0", {"type": 1, "f": 0.5}, 0.5),
        (b"scalar:value0", {"type": 9, "i": 1}, True),
        (b"scalar:Tuple[value1,value2,],", {"type": 7, "ints": [3, 4]}, (3, 4)),
        (b"scalar:Tuple[value1,],", {"type": 7, "ints": [3]}, (3,)),
        (b"scalar:Tuple[],", {"type": 19}, ()),
        (b"scalar:List[value1,value2,],", {"type": 8, "strings": [b"x", b"w"]}, ("x", "w")),
        (b"scalar:Tuple[value1,],", {"type": 9, "ints": [1]}, (True,)),
        (
            b"scalar:Tuple[Tuple[value1,value2,],Tuple[value3,value4,],],",
            {"type": 7, "ints": [0, 1, 2, 3]},
            ((0, 1), (2, 3)),
        ),
        (b"Monad:UMonad", {}, Monad()),
        (b"none", {}, None),
    ],
)
def test_every_form_of_an_attribute_is_read(
    text: bytes, fields: dict[str, Any], wanted: object
) -> None:
    assert constant_of(attribute(text, **fields), "it") == wanted


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"scalar:Tuple[value1,value2,],", {"type": 7, "ints": [3]}),
        (b"scalar:Tuple[value1,],", {"type": 7, "ints": [3, 4]}),
        (b"scalar:Tuple[value1,],", {"type": 7, "ints": [3], "floats": [1.0]}),
        (b"dict:value0", {}),
        (b"scalar:" + b"Tuple[" * 40, {"type": 7}),
    ],
)
def test_a_form_that_is_not_known_is_refused(text: bytes, fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"MindSpore 1\.x|nested more than"):
        constant_of(attribute(text, **fields), "it")


def test_a_nodes_types_are_read_without_a_name() -> None:
    made = attribute(b"shape:Tuple[shape1,Tuple[shape2,],UMonad,],")
    made.tensors.add(dims=[2, 3], data_type=1)
    made.tensors.add(dims=[1], data_type=13)
    assert type_of(made, "it") == (TensorType("float32", (2, 3)), (None,), None)
